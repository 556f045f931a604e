"""VisCPM-Paint."""
