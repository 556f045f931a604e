"""Processing of prompts: normalisation, weighting, quoted text, token budget, styles."""
