"""Notebook 02b: the Latent Guard (arXiv 2507.11878, section 6)."""
