"""Notebook 10: predicting refusals from outside and from inside (arXiv 2306.03423)."""
