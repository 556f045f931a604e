"""Z-Image (arXiv:2511.22699)."""
