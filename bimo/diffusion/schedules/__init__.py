"""Noise schedules for training and sampling, on diffusers' schedulers."""
