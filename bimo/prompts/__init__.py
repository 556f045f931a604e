"""What the user wrote: normal form, weighting, quoted text, token budget, styles."""
