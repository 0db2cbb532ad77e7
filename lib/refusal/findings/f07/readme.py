"""What the README and the ledger's page say of over-refusal."""

HEADLINES = {
    "07.search.raises": "what it finds is refused ({value})",
    "07.context.ignored": "the context is ignored ({value})",
}
