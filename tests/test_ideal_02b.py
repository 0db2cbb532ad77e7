"""Each claim of notebook 02b can be met and can fail: data of an ideal result and of an ideal counter-result,
in the notebook's default sizes.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from refusal.base.files import DATA, NOTEBOOKS
from refusal.findings.f02b import attack, categories, guard, jailbreaks
from refusal.report.rules import Measured, decide, read_claims
from refusal.run.params import parameters_of

BOOK = NOTEBOOKS / "02b_latent_guard.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
SIZE = {name: p.default for name, p in parameters_of(BOOK).items()}


def verdict(id: str, measured: dict, controls: dict, void: str | None = None) -> str:
    return decide(CLAIMS[id].rule, Measured(**vars(measured), controls=controls), void)[0]


def scores(n_harmful: int, n_harmless: int, apart: float, seed: int, middle: float = 0.0) -> guard.Scores:
    """Scores of unit spread whose class means lie `apart`, around `middle`."""
    rng = np.random.default_rng(seed)
    return rng.normal(middle + apart / 2, 1, n_harmful), rng.normal(middle - apart / 2, 1, n_harmless)


# how far apart the classes lie for a reader that sees harm, and for one that hardly does
GOOD, WEAK = 6.0, 1.0


def test_guard_beats_text():
    n = SIZE["n_test"]
    good, weak = scores(n, n, GOOD, 0), scores(n, n, WEAK, 1)
    assert verdict("02b.guard.beats-text", *guard.beats_text(good, weak, "TF-IDF")) == "replicated"
    assert verdict("02b.guard.beats-text", *guard.beats_text(weak, good, "TF-IDF")) == "not replicated"


def test_guard_false_positives():
    harmless = scores(0, SIZE["n_test"], GOOD, 0)[1]
    assert (
        verdict("02b.guard.false-positives", *guard.false_positives(harmless, {"pseudo_harmful": harmless}))
        == "replicated"
    )
    assert (
        verdict(
            "02b.guard.false-positives",
            *guard.false_positives(harmless + GOOD / 2, {"pseudo_harmful": harmless}),
        )
        == "not replicated"
    )


def test_guard_accepted_harmful():
    accepted, n = SIZE["n_test"] // 3, SIZE["n_test"]
    good, weak, blind = scores(accepted, n, GOOD, 0), scores(accepted, n, WEAK, 1), scores(accepted, n, 0, 2)
    ask = lambda watch, reader: verdict("02b.guard.accepted-harmful", *guard.caught(watch, reader, "TF-IDF"))
    assert ask(good, weak) == "replicated"
    assert ask(blind, weak) == "not replicated"
    # catches most, and a reader of the text catches more
    assert ask(scores(accepted, n, 2.5, 3), good) == "not replicated"
    assert ask(scores(10, n, GOOD, 0), scores(10, n, WEAK, 1)) == "underpowered"


@pytest.mark.parametrize("method", ["template", "persuasion", "past-tense"])
def test_jailbreaks(method):
    id, n = f"02b.jailbreak.{method}", SIZE["n_jailbreak"]
    won = np.arange(3 * n) % 3 == 0

    def ask(watch, reader):
        return verdict(id, *jailbreaks.caught(watch, reader, won, "TF-IDF"))

    good, weak, blind = scores(3 * n, n, GOOD, 0), scores(3 * n, n, WEAK, 1), scores(3 * n, n, 0, 2)
    assert ask(good, weak) == "replicated"
    assert ask(scores(3 * n, n, 0, 2, middle=-5), weak) == "not replicated"  # misses them all
    assert ask(scores(3 * n, n, 0, 2, middle=5), weak) == "not replicated"  # flags the wording
    assert ask(blind, good) == "not replicated"
    failed = np.where(won, 5.0, -5.0)  # attempts that failed are no part of it
    assert ask((failed, good[1]), weak) == "replicated" and ask((-failed, good[1]), weak) == "not replicated"


def test_attack():
    n, rng = SIZE["n_victims"], np.random.default_rng(0)
    harmful = np.arange(2 * n) < n
    before = np.where(harmful, 0.1, -0.1) + rng.normal(0, 0.02, 2 * n)
    sizes = attack.sizes(SIZE["n_attack"])
    # answered: harmless ones and half of the harmful; all
    none, some = ~harmful | (np.arange(2 * n) % 2 == 0), np.ones(2 * n, bool)

    def ask(moved, accepted=some, sizes=sizes):
        after = {k: before + moved + rng.normal(0, 0.01, 2 * n) for k in sizes}
        return verdict(
            "02b.attack.representation-stays",
            *attack.stays(before, after, harmful, {k: accepted for k in sizes}, none),
        )

    assert ask(0.01) == "replicated"
    assert ask(np.where(harmful, -0.18, 0)) == "not replicated"
    assert ask(np.where(harmful, 0, 0.18)) == "not replicated"  # the harmless side as well
    assert ask(0.01, accepted=none) == "uninformative"  # an attack that did not work is void
    assert ask(np.where(harmful, -0.18, 0), sizes=sizes[:1]) == "underpowered"


def states(
    groups: list[np.ndarray], apart: tuple[float, float], layers: int = 4, width: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """States of prompts that share one direction, with one of their category added, `apart` times as long, at
    each of two positions.
    """
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape, generator=g), dim=-1)
    acts = torch.randn(1 + max(map(max, groups)), layers, 2, width, generator=g) * 0.05
    shared = draw(layers, 2, width)
    for members in groups:
        acts[members] += shared + torch.tensor(apart)[:, None] * draw(layers, 2, width)
    return acts, torch.zeros(8, layers, 2, width)


@pytest.mark.parametrize("source", list(categories.BENCHMARKS))
def test_categories(source):
    table = pd.read_csv(DATA / "prompts.csv", dtype=str, keep_default_na=False)
    pool = table[(table.label == "harmful") & table.role.isin(["direction", "validation"])].reset_index(
        drop=True
    )
    groups = [
        g for name, g in categories.members(pool).items() if name.startswith(categories.BENCHMARKS[source])
    ]
    assert len(groups) >= 2
    ask = lambda apart: verdict(
        f"02b.categories.{source}",
        *categories.differ_in_harm(*states(groups, apart), groups, SIZE["n_groups"]),
    )
    assert ask((0.8, 0.2)) == "replicated" and ask((0.2, 0.8)) == "not replicated"
    assert ask((0.0, 0.0)) != "replicated"  # categories in name only
    few = categories.differ_in_harm(*states(groups, (0.8, 0.2)), groups, 5)
    assert verdict(f"02b.categories.{source}", *few) == "underpowered"


def test_every_claim_has_its_ideal_here():
    asked = {
        "beats-text",
        "false-positives",
        "accepted-harmful",
        "template",
        "persuasion",
        "past-tense",
        "representation-stays",
        *categories.BENCHMARKS,
    }
    assert {id.split(".")[-1] for id in CLAIMS} == asked
