"""What the README and the ledger's page say of over-refusal."""

HEADLINES = {
    "07.search.raises": "greedy answers refuse what it finds more often ({value})",
    "07.search.judge": "and sampled ones ({value})",
    "07.context.ignored": "the context is ignored ({value})",
}
