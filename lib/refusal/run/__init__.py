"""What the command line does: parameters, running notebooks, their provenance."""
