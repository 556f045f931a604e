"""Judges of what a picture shows: a CLIP, a vision-language model behind an endpoint."""
