"""What a run reports: rules and records of the ledger, figures, text."""
