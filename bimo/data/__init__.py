"""Training data: shards, their row index, and loaders of pictures, captions and labels."""
