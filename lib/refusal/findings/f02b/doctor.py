"""What keeps a model from informing on notebook 02b, asked before a run."""

from refusal import data
from refusal.measure import stats
from refusal.report.outlook import Asked, too_few

FEWEST = 10  # refused harmful, and answered harmless, prompts behind a guard


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: all claims where too few prompts of the direction split are refused, or answered."""
    for label, outcome, what in (
        ("harmful", "refusal", "harmful prompts refused:"),
        ("harmless", "answer", "harmless prompts answered:"),
    ):
        share = stats.rate(asked.answers.outcome[asked.answers.label == label] == outcome)
        there = len(data.prompts("direction", label=label, tier=asked.tier))
        if reason := too_few(share, FEWEST / there, what):
            return {id: reason for id in asked.claims if id.startswith("02b.")}
    return {}
