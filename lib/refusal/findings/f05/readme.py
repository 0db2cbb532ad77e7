"""What the README and the ledger's page say of safety prompts."""

HEADLINES = {
    "05.shift.common": "safety prompts move states alike, beyond neutral ones ({value})",
    "05.dro.harmful": "a trained prompt lowers compliance ({value})",
}
