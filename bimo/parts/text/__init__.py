"""Text towers, each with its tokenizer."""
