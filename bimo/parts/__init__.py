"""The shelf: spaces, text towers, denoisers and hints; one family a file."""
