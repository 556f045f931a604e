"""HunyuanDiT (arXiv:2405.08748)."""
