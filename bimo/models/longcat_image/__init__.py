"""LongCat-Image (arXiv:2512.07584)."""
