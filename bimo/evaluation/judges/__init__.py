"""Who says what a picture shows: a CLIP, a vision model behind an endpoint, people."""
