"""What the README and the ledger's page say of safety prompts."""

HEADLINES = {
    "05.shift.common": "safety moves states by more than any prompt ({value})",
    "05.dro.harmful": "a trained prompt lowers compliance ({value})",
}
