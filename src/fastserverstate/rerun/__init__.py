"""Who must be rerun, and when."""
