"""Prompts to evaluate on: our own for Chinese, and readers of published ones that the user has as files."""
