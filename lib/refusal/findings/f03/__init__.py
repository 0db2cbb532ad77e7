"""Notebook 03: the refusal cliff (arXiv 2510.06036)."""
