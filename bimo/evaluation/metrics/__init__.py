"""Metrics of sets of pictures: distributions, CLIP, rendered text, diversity; by torchmetrics where it has them."""
