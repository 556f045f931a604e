"""People and things that are drawn from parts and outlines (SVG), for which there are no reference pictures."""
