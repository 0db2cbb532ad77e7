"""On the planted model everything is known: the directions, where they appear, and what steering along them
does.
"""

import numpy as np
import pytest
import torch

from conftest import Plain
from refusal import data
from refusal.base.errors import UserError
from refusal.findings.f02 import harmfulness
from refusal.measure import behaviour, directions, sweeps
from refusal.measure.readouts import refusal_score
from refusal.model import weights
from refusal.model.tiny import HARM_LAYER, REFUSAL_LAYER, planted_direction
from refusal.trace import reads
from refusal.trace.edits import Ablate, Add
from refusal.trace.prompts import chat


@pytest.fixture(scope="module")
def found(planted):
    prompts = chat(planted, data.prompts("direction", tier="smoke"))
    seen = behaviour.behaviour(planted, prompts)
    acts = reads.collect(planted, prompts)["resid"]
    refused = ((seen.label == "harmful") & (seen.outcome == "refusal")).to_numpy()
    answered = ((seen.label == "harmless") & (seen.outcome == "answer")).to_numpy()
    return {
        name: directions.difference_of_means(acts[:, :, k], refused, answered)
        for name, k in (("harm", 0), ("refusal", 1))
    }


def test_the_planted_directions_are_found_where_they_were_planted(found):
    for name, layer in (("harm", HARM_LAYER), ("refusal", REFUSAL_LAYER)):
        v = found[name]
        cosines = directions.cosine(v, planted_direction(name).expand_as(v))
        assert (cosines[layer + 1 :] > 0.99).all(), name
        assert (v[: layer + 1].norm(dim=-1) < 0.05 * v[layer + 1].norm()).all(), name
    assert abs(directions.cosine(found["harm"][5], found["refusal"][5])) < 0.05


def test_behaviour_is_as_planted(planted):
    for source, expected in (("pseudo_harmful", "refusal"), ("pseudo_twin", "answer")):
        seen = behaviour.behaviour(planted, chat(planted, data.prompts("test", source=source, tier="smoke")))
        assert set(seen.outcome) == {expected}
    harmful = data.prompts("test", label="harmful", tier="smoke")
    seen = behaviour.behaviour(planted, chat(planted, harmful))
    disguised = harmful.text.str.contains("pretend|story|novel")
    assert set(seen.outcome[disguised]) == {"answer"} and set(seen.outcome[~disguised]) == {"refusal"}


def test_steering_works_below_the_block_that_reads_and_not_above(planted, found):
    harmless = chat(planted, data.prompts("test", source="pseudo_twin", tier="smoke"))[:8]
    refused = lambda edit: np.mean(
        [o == "refusal" for o in behaviour.outcomes(planted, harmless, [[edit]])[0]]
    )
    harm, refusal = found["harm"], found["refusal"]
    assert refused(Add(harm[2], 2, "instruction")) == 1 and refused(Add(harm[5], 5, "instruction")) == 0
    assert refused(Add(refusal[5], 5, "prompt")) == 1 and refused(Add(refusal[5], 5, "instruction")) == 0
    for noise in directions.random_directions(refusal[5], 5):
        assert refused(Add(noise, 5, "prompt")) < 0.5


def test_an_edit_is_judged_beside_random_directions(planted, found):
    """Each random direction by the first token, as one by one; of the most extreme ones the answers too."""
    harmless = chat(planted, data.prompts("test", source="pseudo_twin", tier="smoke"))[:8]
    tokens, v = [planted.tokenizer.get_vocab()["Sorry"]], found["refusal"][5]
    mixed = [-v, *directions.random_directions(v, 2), v]  # one of them is the direction itself
    edit = lambda x: Add(x, 5, "prompt")
    for lowest, strongest in ((False, 3), (True, None)):
        arm = behaviour.against_random(
            planted, harmless, edit, v, mixed, refusal_score(tokens), lowest=lowest, n_judged=1
        )
        assert arm.outcomes == ["refusal"] * 8 == behaviour.outcomes(planted, harmless, [[edit(v)]])[0]
        for drawn, by_first in zip(mixed, arm.random, strict=True):
            alone = reads.score(planted, harmless, refusal_score(tokens), [[edit(drawn)]])[0]
            assert by_first == ["refusal" if s > 0 else "answer" for s in alone.tolist()]
        ((k, said),) = arm.judged.items()
        rates = [r.count("refusal") for r in arm.random]
        assert rates[k] == (min(rates) if lowest else max(rates)) and strongest in (k, None)
        assert said == behaviour.outcomes(planted, harmless, [[edit(mixed[k])]])[0]


def test_neutral_tokens_stand_in_place_of_the_closing_ones(planted):
    made = chat(planted, data.prompts("test", source="pseudo_twin", tier="smoke"))[:3]
    for p, q in zip(made, harmfulness.with_neutral_closing(planted, made), strict=True):
        assert q.ids[: q.stop] == p.ids[: p.stop] and len(q.ids) == len(p.ids) and q.stop == p.stop
        closing = set(q.ids[q.stop :])
        assert len(closing) == 1 and not closing & set(p.ids[p.stop :])


def test_ablation_removes_refusal_and_random_ablation_does_not(planted, found):
    harmful = chat(planted, data.prompts("test", label="harmful", tier="smoke"))
    harmful = [
        p
        for p, o in zip(harmful, behaviour.behaviour(planted, harmful).outcome, strict=True)
        if o == "refusal"
    ][:8]
    arms = [[Ablate(found["refusal"][5])]] + [
        [Ablate(v)] for v in directions.random_directions(found["refusal"][5], 3)
    ]
    real, *random = behaviour.outcomes(planted, harmful, arms)
    assert real.count("refusal") == 0 and all(r.count("refusal") == 8 for r in random)


def test_the_search_selects_the_planted_refusal_direction(planted, found):
    tokens = [planted.tokenizer.get_vocab()["Sorry"]]
    noise = directions.random_directions(found["refusal"][5], 6)
    candidates = {(1, layer): noise[layer - 1] for layer in range(1, 5)} | {(2, 4): found["refusal"][4]}
    harmful = chat(planted, data.prompts("validation", label="harmful", tier="smoke"))
    harmless = chat(planted, data.prompts("validation", source="pseudo_twin", tier="smoke"))
    best = sweeps.select_direction(
        planted, candidates, harmful, harmless, refusal_score(tokens), rungs=(2, 4)
    ).iloc[0]
    assert (best.position, best.layer) == (2, 4) and best.admissible and best.induce > 0 > best.bypass


def test_finding_stops_when_enough_were_seen(planted):
    table = data.prompts("direction", label="harmful", tier="smoke")
    prompts, seen = behaviour.find(planted, table, "refusal", 10)
    n = len(seen)
    assert 10 <= len(prompts) == n < len(table) and (seen.outcome == "refusal").sum() >= 10
    assert list(seen.id) == list(table.id[:n]) == [p.id for p in prompts]
    everything, seen = behaviour.find(planted, table, "answer", len(table) + 1)
    assert len(everything) == len(seen) == len(table) and seen.outcome.ne("answer").any()


def test_orthogonal_weights_equal_ablation_and_are_put_back(tiny, five):
    v = torch.randn(32, generator=torch.Generator().manual_seed(5))
    before = {k: p.clone() for k, p in tiny.module.named_parameters()}
    if tiny.mlp_writes != "mlp":
        with pytest.raises(UserError, match="a norm follows"), weights.orthogonalized(tiny, v):
            pass
        return
    ablated = reads.score(tiny, five, lambda x: x, [[Ablate(v)]])[0]
    with weights.orthogonalized(tiny, v):
        written = torch.stack([Plain(tiny.module, tiny.name).run(p.ids)[0][-1] for p in five])
    torch.testing.assert_close(written, ablated, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(p, before[k]) for k, p in tiny.module.named_parameters())
    with pytest.raises(RuntimeError, match="inside"), weights.orthogonalized(tiny, v):
        raise RuntimeError("inside")
    assert all(torch.equal(p, before[k]) for k, p in tiny.module.named_parameters())
