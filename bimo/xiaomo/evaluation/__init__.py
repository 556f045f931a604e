"""How 小墨 is judged."""
