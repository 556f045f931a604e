"""Lumina-Image 2.0 (arXiv:2503.21758)."""
