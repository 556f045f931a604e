"""The web page: prompt, settings, pictures, history. It makes no requests to other hosts."""
