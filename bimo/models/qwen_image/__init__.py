"""Qwen-Image (arXiv:2508.02324)."""
