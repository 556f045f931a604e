"""Stable Diffusion 1, 2 and XL (arXiv:2112.10752)."""
