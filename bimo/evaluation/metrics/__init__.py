"""Numbers of sets of pictures: distributions, CLIP, text in pictures, variety. By torchmetrics where it has them."""
