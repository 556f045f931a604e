"""Rules over captions, pictures and the whole."""
