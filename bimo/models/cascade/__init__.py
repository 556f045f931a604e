"""Cascades of pixel UNets (arXiv:2204.06125)."""
