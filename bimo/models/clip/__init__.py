"""CLIP and its relatives: text and image encoders with a common space (arXiv:2103.00020)."""
