"""What the figures and the code of Oyster-I say (arXiv 2509.01909): satisfaction and risk of its models, how
its plot is scaled, and its rule for updating strategies in three readings.
"""

from collections.abc import Callable, Sequence

import numpy as np

# (S, R), solved from the published sweep of beta
PUBLISHED = {
    "Qwen3-14B": (0.634, 0.079),
    "Qwen3-14B, Oy1-ORPO": (0.606, 0.021),
    "DS-14B": (0.570, 0.291),
    "DS-14B, Oy1-ORPO": (0.622, 0.034),
    "RealSafe": (0.432, 0.049),
    "GPT-5": (0.733, 0.063),
    "Claude 3.7": (0.553, 0.097),
}
BETAS = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
FAULTS = (
    ("prompts/cn/structured_chain_recombine.txt", "has no bytes, and cn is the default"),
    ("utils/utils.py", 'fills in the "no risk" chain after its placeholder is gone, and reports it as used'),
    (
        "initialize.py",
        "fills the chain into the prompt of all rows, and stops before at a name without value",
    ),
    ("optimize.py", "keeps ten rows, ends before its main loop, keeps the last round and not the best"),
    ("utils/QwQ.py", "turns errors into empty answers, so that nothing is tried again"),
    ("players/", "writer and judge are one model, asked in Chinese about English"),
)
Strategies = Sequence[str]


def break_even(one: tuple[float, float], other: tuple[float, float]) -> float | None:
    """The beta at which two models with (S, R) score alike; None where there is none above 0."""
    by_risk = one[1] - other[1]
    found = (one[0] - other[0]) / by_risk if by_risk else -1.0
    return found if found > 0 else None


def likeness(a: str, b: str) -> float:
    """The share of words that two strategies have in common."""
    x, y = set(a.lower().split()), set(b.lower().split())
    return len(x & y) / max(len(x | y), 1)


def minimal_update(current: Strategies, proposed: Strategies, most: int = 2) -> list[str]:
    """`minimal_strategies_update` of the released code, with its arguments in the order of their names, and
    words in common for its hashes: up to `most` differences change nothing; with nothing in common the
    likeliest one is replaced and the least alike added; else what both have is kept and one is added.
    """
    common = [s for s in current if s in proposed]
    differ = len({*current} ^ {*proposed})
    if differ <= most:
        return list(current)
    mean_likeness = lambda s: float(np.mean([likeness(s, c) for c in current]))
    if not common:
        best = max(proposed, key=lambda s: max(likeness(s, c) for c in current))
        place = max(current, key=lambda c: likeness(c, best))
        kept = [best if c == place else c for c in current]
        left = [s for s in proposed if s != best]
        return [*kept, min(left, key=mean_likeness)] if left else kept
    left = [s for s in proposed if s not in common]
    return [*common, min(left, key=mean_likeness)] if left else common


def as_named(current: Strategies, proposed: Strategies) -> list[str]:
    """The update called as its names say."""
    return minimal_update(current, proposed)


def as_released(current: Strategies, proposed: Strategies) -> list[str]:
    """As it is called: with the proposal first."""
    return minimal_update(proposed, current)


def as_described(current: Strategies, proposed: Strategies) -> list[str]:
    """As the paper has it: at most one strategy changes in a round, to the new one that is least alike."""
    new = [s for s in proposed if s not in current]
    gone = [s for s in current if s not in proposed]
    if not new:
        return list(current)
    added = min(new, key=lambda s: float(np.mean([likeness(s, c) for c in current])))
    place = gone[0] if gone else None
    return [added if c == place else c for c in current] if place else [*current, added]


READINGS: dict[str, Callable[[Strategies, Strategies], list[str]]] = {
    "as released": as_released,
    "as its names say": as_named,
    "as described": as_described,
}


def drawn(changed: int, rng: np.random.Generator, n: int = 4) -> tuple[list[str], list[str]]:
    """`n` strategies of four words, and a proposal in which `changed` of them are new."""
    words = [f"w{k}" for k in range(60)]
    made: list[str] = [" ".join(rng.choice(words, 4, replace=False)) for _ in range(n + changed)]
    return made[:n], [*made[n:], *made[changed:n]]


def adopted(reading: str, changed: int, draws: int = 200, seed: int = 0) -> tuple[float, float, float]:
    """Over draws: the share of new strategies that are adopted, how many there are afterwards, and in how
    many the chain and what it was differ, old ones and new ones counted.
    """
    rng, found = np.random.default_rng((seed, changed)), []
    for _ in range(draws):
        current, proposed = drawn(changed, rng)
        result, new = READINGS[reading](current, proposed), {*proposed} - {*current}
        share = len(new & {*result}) / len(new) if new else 0.0
        found.append((share, len(result), len({*result} ^ {*current})))
    share, size, differ = (float(x) for x in np.mean(found, axis=0))
    return share, size, differ
