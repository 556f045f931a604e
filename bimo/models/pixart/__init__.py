"""PixArt (arXiv:2310.00426)."""
