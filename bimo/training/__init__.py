"""Training: stages, objectives, the one loop."""
