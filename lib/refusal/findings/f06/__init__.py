"""Notebook 06: refusal tokens (arXiv 2412.06748)."""
