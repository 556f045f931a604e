"""Measuring a system: a judge trained on true artwork, prompts, baselines, and a report."""
