"""Adapters: stages that train a few weights next to frozen ones."""
