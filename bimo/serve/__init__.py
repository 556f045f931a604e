"""Serving: the web page."""
