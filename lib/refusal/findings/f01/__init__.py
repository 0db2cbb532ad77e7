"""Notebook 01: two models of one lineage side by side (arXiv 2504.02904)."""
