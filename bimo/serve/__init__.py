"""Serving: jobs, scheduler, HTTP interfaces, the web page."""
