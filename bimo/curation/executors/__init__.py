"""Who does the jobs of a run."""
