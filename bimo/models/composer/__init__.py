"""Composer (arXiv:2302.09778)."""
