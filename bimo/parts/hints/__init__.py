"""Hints: what is read off an image, or an earlier level, and conditions a level."""
