"""Training: objectives, what learns, optimisers, and the one loop."""
