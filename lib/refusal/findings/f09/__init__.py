"""Notebook 09: constructive safety (arXiv 2509.01909)."""
