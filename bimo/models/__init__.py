"""Families of models, one folder each, and what they share: text encoders, spaces, adapters, layouts."""
