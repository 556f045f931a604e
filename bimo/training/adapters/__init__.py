"""Stages that learn beside frozen weights."""
