"""Readers: rows of a source, in whatever format."""
