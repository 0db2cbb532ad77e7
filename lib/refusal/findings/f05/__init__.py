"""Notebook 05: safety prompts from inside (arXiv 2401.18018)."""
