"""Filters: rules over captions, over pictures, and over the whole set."""
