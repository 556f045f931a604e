"""ERNIE-Image (Baidu, 2026)."""
