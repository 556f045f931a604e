"""CLIP and its relatives: encoders of text and pictures that agree (arXiv:2103.00020)."""
