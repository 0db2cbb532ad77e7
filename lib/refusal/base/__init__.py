"""What every room stands on: errors, files, the machine, progress. Knows nothing of models or findings."""
