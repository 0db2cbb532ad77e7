"""What keeps a reasoner from informing on notebook 03, asked before a run."""

from refusal import data
from refusal.measure import stats
from refusal.report.outlook import Asked, too_few

FEWEST = 10  # refused, and answered, prompts that a prober is trained on
NATURAL = "the reasoner refuses"  # how the precondition of a claim about the reasoner itself begins


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: claims about the reasoner itself where it refuses too few of the prober's prompts, as far
    as answers without thinking tell it.
    """
    refused = stats.rate(asked.answers.outcome[asked.answers.label == "harmful"] == "refusal")
    there = len(data.prompts("prober", label="harmful", tier=asked.tier))
    reason = too_few(refused, FEWEST / there, "harmful prompts refused, without thinking first:")
    mine = [c for c in asked.claims.values() if c.id.startswith("03.")]
    return {c.id: reason for c in mine if c.precondition.startswith(NATURAL)} if reason else {}
