"""What it saves that every text of a search is scored once, whichever arm asks."""

from collections.abc import Callable

from refusal.data.mutators import mutators
from refusal.findings.f07 import evolve
from refusal.findings.f07.evolve import ARMS, Seed
from refusal.model.loading import Model


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """Texts that are scored for all arms together, over the sum of what each alone asks for: counted, not
    timed.
    """
    seeds = [Seed(p.id, p.text.rstrip(".?!"), "any") for p in prompts[:16]]
    asked: list[str] = []

    def score(texts):
        asked.extend(texts)
        return [float(len(t) % 13) for t in texts]

    evolve.run(seeds, ARMS, mutators(), score, 3, 0)
    together, each = len(asked), 0
    for name, arm in ARMS.items():
        asked.clear()
        evolve.run(seeds, {name: arm}, mutators(), score, 3, 0)
        each += len(asked)
    return [f"texts scored for all arms together / for each alone              {together / each:.2f}"]
