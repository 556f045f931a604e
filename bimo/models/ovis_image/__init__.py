"""Ovis-Image (arXiv:2511.22982)."""
