"""PanGu-Draw (arXiv:2312.16486)."""
