"""Weights as they were published: folders, single files and their names, read as data."""
