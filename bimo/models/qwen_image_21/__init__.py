"""Qwen-Image-2.1 (2026-09): a picture and its references among the words, drawn with transparency."""
