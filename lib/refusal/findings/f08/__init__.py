"""Notebook 08: roles and images (arXiv 2504.03735)."""
