"""What the README and the ledger's page say of roles and images."""

HEADLINES = {
    "08.roles.refusal": "swapped headers lower refusals ({value})",
    "08.roles.on-task": "and bring what was asked ({value})",
    "08.roles.harmless": "harmless ones are answered as before ({value} less)",
}
