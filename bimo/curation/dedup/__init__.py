"""Deduplication of pictures."""
