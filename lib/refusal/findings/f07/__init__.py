"""Notebook 07: over-refusal (arXiv 2505.23473)."""
