"""Pieces of ingredients, by kind."""
