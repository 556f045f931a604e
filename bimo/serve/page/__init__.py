"""The web page: a prompt, settings, pictures and all that was drawn before. It asks no other host."""
