"""CLIP and its kin: encoders of text and pictures that agree (arXiv:2103.00020)."""
