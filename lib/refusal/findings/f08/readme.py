"""What the README and the ledger's page say of roles and images."""

HEADLINES = {
    "08.roles.on-task": "swapped headers bring what is asked ({value})",
}
