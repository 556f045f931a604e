"""Executors: where the jobs of a run are executed."""
