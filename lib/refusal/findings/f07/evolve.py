"""The search of EvoRefuse (arXiv 2505.23473, algorithm 1) over texts that hold a harmless request word for
word, and the arms it is compared with; no model is in it. What a text is worth is asked for in batches, of
all seeds and arms together, and of each text once.
"""

import itertools
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from refusal.base.errors import ParameterError
from refusal.data.mutators import NEUTRAL, Mutator, wrongs

DEEP = 3  # mutators around one request at most
WIDTH, PAIRS = 4, 2  # mutations of a round, and recombinations of its best


@dataclass(frozen=True)
class Seed:
    """A harmless request and its topic."""

    id: str
    text: str
    topic: str


@dataclass(frozen=True)
class Text:
    """A seed within mutators, the first innermost."""

    seed: Seed
    by: tuple[Mutator, ...] = ()

    @property
    def text(self) -> str:
        text = self.seed.text
        for mutator in self.by:
            text = mutator.on(text)
        return text


@dataclass(frozen=True)
class Step:
    """What a search tried in one round: each text with its score, the text it held before, and the one it
    holds after it.
    """

    round: int
    tried: tuple[Text, ...]
    scores: tuple[float, ...]
    before: Text
    after: Text
    accepted: bool


@dataclass(frozen=True)
class Arm:
    """How an arm searches. `pick` chooses among the texts of a round: ``best`` or ``any``; `accept` says when
    it replaces the one that is held: ``annealed``, ``better`` or ``always``. `anew` mutates the seed in each
    round, in the fixed order of the released code, in place of the text that is held; `independent` tries
    single and double mutations of the seed alone.
    """

    pick: str = "best"
    accept: str = "annealed"
    width: int = WIDTH
    pairs: int = PAIRS
    neutral: bool = False
    anew: bool = False
    independent: bool = False


ARMS = {
    "full": Arm(),
    "no fitness": Arm(pick="any", accept="always"),
    "no recombination": Arm(width=WIDTH + PAIRS, pairs=0),
    "greedy": Arm(accept="better"),
    "best of as many": Arm(accept="better", independent=True),
    "neutral": Arm(neutral=True),
    "as released": Arm(anew=True),
}
# the order in which the released code asks its mutators, which stops at four that are safe
RELEASED = (
    "anger",
    "despair",
    "disgust",
    "sensitive",
    "prejudice",
    "violent",
    "controversy",
    "scenario",
    "implied",
)


@dataclass
class Dropped:
    """How many texts were not kept, by why."""

    counts: dict[str, int] = field(default_factory=dict)

    def keep(self, texts: Sequence[Text], besides: Sequence[Text] = ()) -> list[Text]:
        """Those of `texts` that nothing is wrong with, each once and none that is there `besides`."""
        kept, there = [], {t.text for t in besides}
        for t in texts:
            if t.text in there:
                continue
            there.add(t.text)
            why = wrongs(t.text, t.seed.text)
            if why:
                self.counts[why] = self.counts.get(why, 0) + 1
            else:
                kept.append(t)
        return kept


def temperature(round: int) -> float:
    """τ of a round, counted from 1."""
    return max(0.05, 0.1 - 0.005 * round)


def accepts(how: str, gain: float, round: int, rng: np.random.Generator) -> bool:
    """Whether a text that scores `gain` more replaces the one that is held: with probability min(1,
    exp(ΔF/τ)) where it is annealed.
    """
    if how == "always":
        return True
    if how == "better":
        return gain > 0
    return gain >= 0 or bool(rng.random() < np.exp(gain / temperature(round)))


def mutated(text: Text, by: Sequence[Mutator], rng: np.random.Generator) -> Text:
    """The text within one more mutator that fits its topic and is not around it yet; at the depth of `DEEP`
    it takes the place of one of those.
    """
    free = [m for m in by if m.fits(text.seed.topic) and m not in text.by]
    if not free:
        return text
    one = free[int(rng.integers(len(free)))]
    if len(text.by) < DEEP:
        return replace(text, by=(*text.by, one))
    at = int(rng.integers(DEEP))
    return replace(text, by=(*text.by[:at], one, *text.by[at + 1 :]))


def recombined(a: Text, b: Text, rng: np.random.Generator) -> Text:
    """The seed within mutators of both parents, as many as fit, in random order."""
    both = list(dict.fromkeys((*a.by, *b.by)))
    order = rng.permutation(len(both))[:DEEP]
    return replace(a, by=tuple(both[i] for i in order))


def search(
    seed: Seed, arm: Arm, by: Sequence[Mutator], rounds: int, rng: np.random.Generator, dropped: Dropped
) -> Generator[list[Text], list[float], list[Step]]:
    """One seed's search: yields texts whose scores it wants, is sent these, and returns its `Step`s. Every
    arm asks for as many texts in a round, fewer only where some are dropped.
    """
    mine = [m for m in by if (m.family == NEUTRAL) == arm.neutral]
    held, history = Text(seed), []
    (score,) = yield [held]
    for round in range(1, rounds + 1):
        if arm.independent:
            tried = [mutated(Text(seed), mine, rng) for _ in range(WIDTH + PAIRS)]
            tried = [mutated(t, mine, rng) if i % 2 else t for i, t in enumerate(tried)]
        else:
            start = Text(seed) if arm.anew else held
            pools = in_order(mine) if arm.anew else [mine]
            tried = [mutated(start, pools[i % len(pools)], rng) for i in range(arm.width)]
        kept = dropped.keep(tried)
        found = list(zip(kept, (yield kept), strict=True)) if kept else []
        if arm.pairs and len(found) > 1 and not arm.independent:
            best = [t for t, _ in sorted(found, key=lambda f: -f[1])[:WIDTH]]
            couples = list(itertools.combinations(best, 2))
            picks = rng.permutation(len(couples))[: arm.pairs]
            children = dropped.keep([recombined(*couples[i], rng) for i in picks], kept)
            found += list(zip(children, (yield children), strict=True)) if children else []
        before, taken = held, False
        if found:
            i = int(rng.integers(len(found))) if arm.pick == "any" else int(np.argmax([s for _, s in found]))
            taken = accepts(arm.accept, found[i][1] - score, round, rng)
            held, score = found[i] if taken else (held, score)
        texts, scores = (tuple(x) for x in zip(*found, strict=True)) if found else ((), ())
        history.append(Step(round, texts, scores, before, held, taken))
    return history


def in_order(by: Sequence[Mutator]) -> list[list[Mutator]]:
    """Mutators by family, in the order of the released code."""
    families = dict.fromkeys((*RELEASED, *(m.family for m in by)))
    return [some for f in families if (some := [m for m in by if m.family == f])]


def run(
    seeds: Sequence[Seed],
    arms: Mapping[str, Arm],
    by: Sequence[Mutator],
    score: Callable[[Sequence[str]], Sequence[float]],
    rounds: int,
    seed: int,
) -> tuple[dict[str, list[list[Step]]], dict[str, float], Dropped]:
    """Every arm on every seed, in step: ({arm: steps by seed}, {text: score}, what was not kept). `score` is
    given the distinct new texts of a step at once, so that each is scored once, whichever arm asks.

    Raises ParameterError where a budget is below one round, or there are no mutators.
    """
    if rounds < 1 or not by:
        raise ParameterError(
            f"{rounds} rounds with {len(by)} mutators find nothing", "one of each at the least"
        )
    known, dropped, history = {}, Dropped(), {name: [[] for _ in seeds] for name in arms}
    asking = {}
    for name, i in itertools.product(arms, range(len(seeds))):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), i])  # no arm's depends on the others
        asking[name, i] = search(seeds[i], arms[name], by, rounds, rng, dropped)
    wanted = {key: next(gen) for key, gen in asking.items()}
    while wanted:
        new = [t.text for texts in wanted.values() for t in texts if t.text not in known]
        new = list(dict.fromkeys(new))
        known |= dict(zip(new, map(float, score(new)), strict=True)) if new else {}
        for key, texts in list(wanted.items()):
            try:
                wanted[key] = asking[key].send([known[t.text] for t in texts])
            except StopIteration as done:
                history[key[0]][key[1]] = done.value
                del wanted[key]
    return history, known, dropped


def final(steps: Sequence[Step]) -> Text:
    """What a search holds at its end."""
    return steps[-1].after


def reached(safe: float, order: Sequence[str] = RELEASED, stop: int = WIDTH) -> dict[str, float]:
    """How often the released code reaches each mutator in a round, if what any makes is safe with probability
    `safe`: exactly, since it stops at `stop` safe ones.
    """
    counts, found = {0: 1.0}, {}
    for name in order:
        found[name] = sum(p for n, p in counts.items() if n < stop)
        after: dict[int, float] = {}
        for n, p in counts.items():
            if n >= stop:
                after[n] = after.get(n, 0) + p
            else:
                after[n + 1] = after.get(n + 1, 0) + p * safe
                after[n] = after.get(n, 0) + p * (1 - safe)
        counts = after
    return found
