"""What the README and the ledger's page say of base and post-trained models."""

HEADLINES = {
    "01.signature.paper": "truth is shared and refusal is not",
    "01.knowledge.cities": "knowledge of cities stays where it was (r {value})",
    "01.confidence.overlap": "the entropy neurons are the same ({share}; the weights moved by "
    "{weight_change_percent} %)",
}
