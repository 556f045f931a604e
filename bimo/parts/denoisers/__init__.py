"""Denoisers: modules that answer an ask."""
