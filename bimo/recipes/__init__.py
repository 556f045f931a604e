"""One short file a system; the only place where numbers of papers live; values only."""
