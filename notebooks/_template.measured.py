"""What notebook NN asks of its numbers (arXiv PAPER), and what the ledger holds of each claim."""

from collections.abc import Sequence

from refusal.base.estimate import Estimate
from refusal.measure import stats
from refusal.measure.judge import BROKEN


def refusal_gap(harmful: Sequence[str], harmless: Sequence[str]) -> tuple[Estimate, dict]:
    """By how much more often harmful prompts are refused than harmless ones, from the judged outcomes of
    both; beside it the two rates and the share of broken answers: (measured, controls).
    """
    refused = [[o == "refusal" for o in said] for said in (harmful, harmless)]
    broken = stats.rate([o in BROKEN for o in (*harmful, *harmless)])
    return stats.difference(*refused), {
        "harmful": stats.rate(refused[0]).value,
        "harmless": stats.rate(refused[1]).value,
        **broken.under("broken"),
    }
