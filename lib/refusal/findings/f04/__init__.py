"""Notebook 04: steering controllers (arXiv 2505.20309)."""
