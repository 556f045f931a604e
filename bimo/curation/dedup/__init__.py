"""Copies of a picture."""
