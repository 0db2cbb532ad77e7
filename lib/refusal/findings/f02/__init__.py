"""Notebook 02: harmfulness and refusal as two directions (arXiv 2507.11878, 2406.11717)."""
