"""Captions written by models."""
