"""Training: one loop, batches to learn from, and the recipes of models that are made here."""
