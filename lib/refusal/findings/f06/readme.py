"""What the README and the ledger's page say of refusal tokens."""

HEADLINES = {
    "06.token.switches": "for unsafe requests the text follows the token ({value})",
    "06.dial.beats-probe": "the dial beats a probe ({value})",
}
