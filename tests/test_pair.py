"""Patching grids, truth directions and entropy neurons against plain PyTorch and planted answers;
post-training recipes.
"""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Plain, tiny_module
from refusal import data
from refusal.base.errors import ParameterError
from refusal.findings.f01 import neurons, pairs, truth
from refusal.measure import patching
from refusal.model import loading
from refusal.model.registry import RECIPES, Recipe
from refusal.model.tiny import tiny_tokenizer
from refusal.trace import reads
from refusal.trace.prompts import plain
from refusal.train import recipes
from refusal.train.batches import left_padded

TEXTS = [
    (f"please {v} the {a} with the {t}", f"please {v} the {b} with the {t}")
    for v, a, b, t in (
        ("paint", "table", "lamp", "rope"),
        ("fold", "letter", "bread", "hammer"),
        ("weigh", "stone", "song", "ladder"),
    )
]


def some_pairs(model):
    return patching.pairs(model, TEXTS, [(20, 30), (21, 31), (22, 20)])


def plain_cell(source, target, pair, layer, position):
    """One cell by hooks: one forward pass for the state, one for the patched run."""
    _, seen = Plain(source.module, source.name).run(pair.clean.ids)
    state = seen["resid"][layer, position]

    def edit(site, l, x):
        if site == "resid" and l == layer:
            x = x.clone()
            x[0, position] = state
        return x

    logits, _ = Plain(target.module, target.name).run(pair.corrupt.ids, edit)
    return float(logits[-1, pair.answers[0]] - logits[-1, pair.answers[1]])


def test_every_cell_equals_one_forward_pass(tiny):
    found = some_pairs(tiny)
    assert len(found) == 3 and len({(p.clean.start, p.clean.stop, len(p.clean.ids)) for p in found}) == 1
    layers = list(range(tiny.n_layers + 1))
    grid = patching.grid(tiny, tiny, found, layers)
    for i, pair in enumerate(found):
        for a, layer in enumerate(layers):
            for position in range(len(pair.clean.ids)):
                assert float(grid[i, a, position]) == pytest.approx(
                    plain_cell(tiny, tiny, pair, layer, position), abs=2e-3
                ), (layer, position)


def test_patches_that_change_nothing_and_everything(llama):
    found = some_pairs(llama)
    clean, corrupt = patching.baseline(llama, found)
    grid = patching.grid(llama, llama, found, [0, 3])
    # before the first difference
    assert torch.allclose(grid[:, :, : found[0].clean.start], corrupt[:, None, None], atol=1e-4)
    assert torch.allclose(grid[:, 1, -1], clean, atol=1e-3)  # the last layer at the last token
    same = [dataclasses.replace(p, corrupt=p.clean) for p in found]
    assert torch.allclose(patching.grid(llama, llama, same, [1, 2]), clean[:, None, None], atol=1e-3)


def test_patching_across_models_and_one_pair_at_a_time(llama):
    torch.manual_seed(5)
    other = loading.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama", revision="other")
    with torch.no_grad():
        for p in other.module.parameters():
            p += 0.05 * torch.randn_like(p)
    found = some_pairs(llama)
    across = patching.grid(llama, other, found, [1, 3])
    assert float(across[1, 0, 4]) == pytest.approx(plain_cell(llama, other, found[1], 1, 4), abs=2e-3)
    one = torch.cat([patching.grid(llama, other, [p], [1, 3]) for p in found])
    torch.testing.assert_close(one, across, rtol=1e-3, atol=1e-3)


def test_pairs_of_another_pattern_are_left_out(llama):
    mixed = [
        *TEXTS,
        ("the river and the song of the stone", "the river and the lamp of the stone"),
        ("paint the table", "paint the table now"),
    ]
    assert len(patching.pairs(llama, mixed, [(20, 30)] * 5)) == 3
    assert patching.pairs(llama, [("paint", "paint")], [(20, 30)]) == []
    assert patching.pairs(llama, TEXTS[:1], [(20, 20)]) == []  # no difference to read
    # the token that is read differs
    assert patching.pairs(llama, [("paint the table", "paint the lamp")], [(20, 30)]) == []


def test_binning_and_agreement_of_grids():
    m = np.array([[0.0, 0.4], [0.6, 1.0]])
    assert patching.binned(m).tolist() == [[0.0, 0.0], [pytest.approx(0.625), pytest.approx(0.975)]]
    assert patching.binned(np.ones((2, 2))).tolist() == [[0, 0], [0, 0]]
    same = patching.compare(m, m)
    assert same["r_raw"] == pytest.approx(1) and same["r_nonzero"] is None
    other, cells = np.array([[0.0, 0.1], [0.4, 1.0]]), {"subject": slice(0, 1), "last": slice(1, 2)}
    assert patching.largest_difference(m, other, cells) == pytest.approx(
        {"all": 0.3, "subject": 0.2, "last": 0.3, "knowledge": 0.2}
    )
    assert patching.largest_difference(m, other, cells | {"object": slice(1, 2)})[
        "knowledge"
    ] == pytest.approx(0.3)


def some_grids(seed=0, n=30):
    """Grids of one signal, of the same signal in another model, and of it upside down; what is peculiar to a
    pair is the same in all models.
    """
    rng, signal = np.random.default_rng(seed), np.zeros((12, 5))
    signal[3:7, 1], signal[8:, 4] = [0.6, 0.9, 1.0, 0.7], [0.55, 0.7, 0.85, 1.0]
    peculiar, cells = 0.5 * rng.normal(size=(n, 12, 5)), {"subject": slice(1, 2), "last": slice(4, 5)}
    make = lambda s: pairs.Grid(
        s + peculiar + 0.02 * rng.normal(size=(n, 12, 5)), np.ones(n), np.zeros(n), np.arange(n) // 2, cells
    )
    return make(signal), make(signal), make(signal[::-1])


def test_models_that_read_the_same_pairs_are_compared_across_halves():
    a, b, c = some_grids()
    alike, unlike, same = pairs.compare_grids(a, b), pairs.compare_grids(a, c), pairs.compare_grids(a, a)
    assert same["across_r_nonzero"].value == pytest.approx(alike["first_r_nonzero"].value)
    # on the same pairs the two models share what is peculiar to them
    assert alike["r_raw"].value > alike["across_r_raw"].value + 0.01
    assert alike["across_r_raw"].value == pytest.approx(alike["halves_r_raw"].value, abs=0.01)
    assert same["gap_r_raw"].value == 0 and same["gap_r_raw"].ci95 == [0, 0]
    assert (
        unlike["gap_r_raw"].ci95[1] < -0.1
        and alike["across_r_nonzero"].ci95[0] > alike["null_r_nonzero"].ci95[1]
    )
    assert unlike["max_diff_knowledge"].value <= unlike["max_diff_all"].value
    # one cluster has no halves
    assert pairs.compare_grids(*(dataclasses.replace(g, cluster=np.zeros(30, int)) for g in (a, b))) == {}


def test_the_peak_is_sought_on_other_pairs_than_it_is_read_on():
    a, b, c = some_grids()
    assert pairs.peak_ratio(b, a).value == pytest.approx(1, abs=0.1) and pairs.peak_ratio(c, a).value < 0.6
    rng = np.random.default_rng(1)
    noise = [
        pairs.Grid(rng.normal(size=(40, 12, 5)), np.ones(40), np.zeros(40), np.arange(40), a.cells)
        for _ in range(2)
    ]
    own = noise[0].values.reshape(40, -1)
    # the largest cells of noise look like an effect
    assert own.mean(0)[np.argsort(own.mean(0))[-5:]].mean() > 0.25
    read = pairs.peak_ratio(noise[1], noise[0]).ci95
    assert read[1] - read[0] > 2  # but on other pairs nothing is left to divide by


def test_halves_keep_groups_together_and_strata_even():
    groups, strata = np.repeat(np.arange(20), 3), np.repeat([0, 1], 30)
    for anew in (False, True):
        one, other = pairs.halves(groups, np.random.default_rng(0), strata, anew)
        assert not (one * other).any() and all(
            len(set(t[groups == g])) == 1 for t in (one, other) for g in range(20)
        )
        assert one[strata == 0].sum() == one[strata == 1].sum() == other[strata == 0].sum() == 15
        assert anew or (one + other == 1).all()


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_the_corrected_cosine_is_that_of_the_directions_and_not_of_what_the_statements_share(noise):
    g = torch.Generator().manual_seed(0)
    positive, group = np.tile([True, False], 200), np.repeat(np.arange(100), 4)
    turned = torch.tensor([0.6, 0.8])  # the cosine of the two models' directions is .6
    peculiar = noise * torch.randn(400, 1, 64, generator=g)
    acts = [peculiar + 0.1 * torch.randn(400, 1, 64, generator=g) for _ in range(2)]
    acts[0][positive, 0, 0] += 1.0
    acts[1][positive, 0, :2] += turned
    found = pairs.corrected(pairs.cosine_halves(*acts, positive, group, np.zeros(400, int)), 0)
    low, high = found["corrected"].ci95
    assert (
        low < 0.6 < high
        and found["halves"].value < 1
        and found["corrected"].value == pytest.approx(0.6, abs=0.2)
    )
    plain_cosine = float(
        torch.nn.functional.cosine_similarity(
            *(a[positive, 0].mean(0) - a[~positive, 0].mean(0) for a in acts), dim=0
        )
    )
    assert plain_cosine > 0.65  # the same statements in both models: noise looks like agreement
    twice = pairs.cosine_halves(acts[1], acts[1], positive, group, np.zeros(400, int))
    assert pairs.corrected(twice, 0)["corrected"].value == pytest.approx(1, abs=1e-6)
    again = pairs.one_model(pairs.cosine_halves(*acts, positive, group, np.zeros(400, int)))
    torch.testing.assert_close(twice["plain"], again["plain"], rtol=1e-4, atol=1e-5)
    shuffled = np.random.default_rng(0).permutation(positive)
    nothing = pairs.corrected(pairs.cosine_halves(*acts, shuffled, np.arange(400), np.zeros(400, int)), 0)[
        "corrected"
    ]
    assert nothing.value is None or nothing.ci95[1] - nothing.ci95[0] > 1  # halves of noise do not agree


def planted_truth(seed=0):
    """States [120, 2, 16] of three sets, true against false along coordinate 0 at layer 1 only; label, sets,
    groups.
    """
    g = torch.Generator().manual_seed(seed)
    sets, label = np.repeat(["a", "b", "c"], 40), np.tile([True, False], 60)
    acts = (
        torch.randn(120, 2, 16, generator=g) * 0.3
        + torch.tensor([5.0 * "abc".index(s) for s in sets])[:, None, None]
    )
    acts[label, 1, 0] += 2.0
    return acts, label, sets, truth.groups_of(sets, np.arange(120) // 2)


def test_truth_is_found_where_it_was_planted():
    acts, label, sets, _ = planted_truth()
    v = truth.direction(acts, label, sets)
    assert v[1, 0] / v[1].norm() > 0.95 > v[0, 0] / v[0].norm()
    moved = acts.clone()
    # an offset between two models: hidden by the tested set's own mean, seen with the training mean
    moved[..., 0] += 3.0
    hits = truth.transfer_hits({"base": acts, "post": moved}, label, sets)
    assert hits["own", "b", "base", "base"].shape == (40, 2)
    assert all(
        hits["own", s, "base", "post"][:, 1].mean() > 0.95 > 0.8 > hits["own", s, "base", "post"][:, 0].mean()
        for s in "abc"
    )
    level = acts - torch.stack([acts[sets == s].mean(0) for s in sets])
    hits = truth.transfer_hits({"base": level, "post": level + torch.eye(16)[0] * 3}, label, sets)
    assert (
        hits["training", "b", "base", "base"][:, 1].mean() > 0.9
        and hits["training", "b", "base", "post"][:, 1].mean() < 0.6
    )
    by_hand = level[sets != "b"]
    v = by_hand[label[sets != "b"]].mean(0) - by_hand[~label[sets != "b"]].mean(0)
    plain_hits = (
        torch.stack([(x - by_hand.mean(0))[1] @ v[1] > 0 for x in level[sets == "b"]]).numpy()
        == label[sets == "b"]
    )
    assert (hits["training", "b", "base", "base"][:, 1] == plain_hits).all()


def test_layers_are_chosen_on_other_statements_than_they_are_read_on():
    chosen_by, seen, fitted = np.arange(400) % 2 == 0, [], []
    for seed in range(20):
        hits = np.random.default_rng(seed).random((400, 60)) < 0.5  # sixty layers of noise
        layers = tuple(truth.best_layer([hits[half]]) for half in (chosen_by, ~chosen_by))
        seen.append(hits[:, truth.best_layer([hits])].mean())
        fitted.append(truth.cross_fitted(hits, layers, chosen_by).mean())
    assert np.mean(seen) > 0.55 and np.mean(fitted) == pytest.approx(0.5, abs=0.02)
    hits[chosen_by, 7], hits[~chosen_by, 9] = True, True
    layers = tuple(truth.best_layer([hits[half]]) for half in (chosen_by, ~chosen_by))
    assert layers == (7, 9)
    expected = np.where(chosen_by, hits[:, 9], hits[:, 7])  # what the even ones chose is read in the odd ones
    assert (truth.cross_fitted(hits, layers, chosen_by) == expected).all()


def test_groups_are_two_pairs_of_one_set_and_a_half_of_them_chooses():
    table = data.statements(["cities", "animal_class"], pairs=6, seed=2)
    group = truth.groups_of(table.set, table.pair)
    assert [int((group == g).sum()) for g in np.unique(group)] == [4] * 6
    for g in np.unique(group):
        part = table[group == g]
        assert part.set.nunique() == 1 and part.subject.nunique() == 2 and part.label.sum() == 2
    chosen_by = truth.chooses(table.set, group)
    assert table[chosen_by].groupby("set").size().tolist() == [8, 8] and not set(group[chosen_by]) & set(
        group[~chosen_by]
    )


def test_the_best_layer_under_permuted_labels_is_what_noise_reaches():
    g = torch.Generator().manual_seed(3)
    sets, label, pair = np.repeat(["a", "b"], 80), np.tile([True, False], 80), np.arange(160) // 2
    noise, group = torch.randn(160, 9, 12, generator=g), truth.groups_of(sets, pair)
    maxima = truth.permuted_maxima(noise, label, sets, group, "a", draws=60)
    hits = truth.transfer_hits({"m": noise}, label, sets)["own", "a", "m", "m"]
    assert 0.5 < maxima.mean() < 0.7 and hits.mean(0).max() <= maxima.max() + 0.05
    noise[label, 4, 0] += 4
    found = truth.transfer_hits({"m": noise}, label, sets)["own", "a", "m", "m"][:, 4].mean()
    assert found > np.percentile(truth.permuted_maxima(noise, label, sets, group, "a", draws=60), 97.5)


def test_statements_of_one_group_do_not_count_as_independent():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(50), 4)
    together = np.repeat(rng.random(50) < 0.7, 4)
    found = truth.accuracy(together, group)
    width, plain_width = np.ptp(found.ci95), np.ptp(truth.stats.rate(together).ci95)
    assert width > 1.6 * plain_width and found.n == 200  # four statements that go together are one
    assert (
        truth.lost(together, together, group).value == 0
        and np.ptp(truth.lost(together, together, group).ci95) > 0.01
    )


def plain_states(model, prompt, edits):
    """h of one prompt by hooks, with (layer, tokens, vector) added."""

    def edit(site, layer, x):
        for at, tokens, vector in edits:
            if site == "resid" and layer == at:
                x = x.clone()
                x[0, tokens] += vector
        return x

    return Plain(model.module, model.name).run(prompt.ids, edit)


def test_moved_is_what_added_vectors_do_to_the_last_token(llama):
    prompts = plain(llama, ["paint the table with the rope", "weigh the stone"])
    v, u, reader = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    there = truth.moved(truth.probe(llama, 2, reader), prompts, {2: v}, (-2, -1), [True, False])
    np.testing.assert_allclose(there, [float(v @ reader)] * 2, rtol=1e-3, atol=1e-3)
    above = truth.moved(truth.probe(llama, 3, reader), prompts, {1: v, 2: u}, (-2, -1), [True, False])
    for prompt, sign, found in zip(prompts, (-1, 1), above, strict=True):
        states = (
            plain_states(llama, prompt, [(1, [-2, -1], sign * v), (2, [-2, -1], sign * u)])[1]["resid"]
            - plain_states(llama, prompt, [])[1]["resid"]
        )
        assert found == pytest.approx(sign * float(states[3, -1] @ reader), abs=2e-3)


def test_the_verdict_and_its_two_normalisations_equal_plain(llama, monkeypatch):
    monkeypatch.setattr(truth, "verdict_tokens", lambda model: (20, 30))
    prompts, v = (
        plain(llama, ["paint the table with the rope", "weigh the stone"]),
        torch.randn(32, generator=torch.Generator().manual_seed(1)),
    )
    label, read = np.array([True, False]), truth.verdict(llama)
    clean, effects = read(prompts, []).numpy(), truth.moved(read, prompts, {1: v}, (-2, -1), label)
    gap = lambda logits: float(logits[-1].softmax(-1)[20] - logits[-1].softmax(-1)[30])
    before = [gap(plain_states(llama, p, [])[0]) for p in prompts]
    after = [
        gap(plain_states(llama, p, [(1, [-2, -1], sign * v)])[0])
        for p, sign in zip(prompts, (-1, 1), strict=True)
    ]
    np.testing.assert_allclose(clean, before, atol=1e-4)
    found = truth.normalised(effects, clean, label)
    gaps, down, up = before[0] - before[1], after[0] - before[0], after[1] - before[1]
    expected = {
        "room/true_to_false": down / (-1 - before[0]),
        "room/false_to_true": up / (1 - before[1]),
        "gap/true_to_false": -down / gaps,
        "gap/false_to_true": up / gaps,
    }
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_the_question_follows_the_last_two_tokens_of_the_statement(real):
    table = data.statements(pairs=4)
    shots, asked = table[:4], list(table.statement[4:])
    prompts, span = truth.questions(real, asked, shots)
    for statement, prompt in zip(asked, prompts, strict=True):
        tail = real.tokenizer.decode([prompt.ids[k] for k in span])
        assert (
            tail.endswith(".")
            and statement.endswith(tail.strip())
            and prompt.text.endswith(f"{statement} This statement is:")
        )


def test_statements_are_drawn_balanced_and_seeded():
    table = data.statements(["cities", "larger_than"], pairs=20, seed=1)
    assert table.groupby("set").label.sum().tolist() == [20, 20] and len(table) == 80
    cities = table[table.set == "cities"]
    assert (cities.groupby("subject").label.agg(["sum", "size"]) == [1, 2]).all(None)
    assert table.equals(data.statements(["cities", "larger_than"], pairs=20, seed=1)) and not table.equals(
        data.statements(["cities", "larger_than"], pairs=20)
    )
    for bad in (
        {"names": ["citties"]},
        {"names": ["cities"], "pairs": 0},
        {"names": ["cities"], "pairs": 10_000},
    ):
        with pytest.raises(ParameterError):
            data.statements(**bad)


def test_recall_asks_for_the_object(planted):
    table = pd.DataFrame(
        [
            ("cities", "the river with the rope", True, "river", "rope", "1"),
            ("cities", "the song with the brush", True, "song", "brush", "2"),
            ("cities", "the song with the rope", False, "song", "rope", "1"),
            ("cities", "the river with the brush", False, "river", "brush", "2"),
        ],
        columns=["set", "statement", "label", "subject", "object", "pair"],
    )
    ids = planted.tokenizer.get_vocab()
    first, second = patching.recall_pairs(planted, table)
    assert first.cluster == second.cluster and first.object is None  # the second is the first, exchanged
    assert (
        first.clean.text == "the river with the"
        and first.corrupt.text == "the song with the"
        and first.answers == (ids["rope"], ids["brush"])
    )
    assert second.answers == (ids["brush"], ids["rope"])


def test_verbal_pairs_share_shots_and_object_and_differ_in_the_subject(real):
    table = data.statements(["cities"], pairs=60)
    shots, rest = table[:4], table[4:]
    found = patching.verbal_pairs(real, rest, shots)
    assert len(found) >= 8 and len({p.answers for p in found}) == 1
    for p in found:
        assert (
            p.clean.ids[: p.clean.start] == p.corrupt.ids[: p.clean.start]
            and p.clean.ids[p.clean.stop :] == p.corrupt.ids[p.clean.stop :]
        )
        assert p.clean.text.startswith(
            f"{shots.statement.iloc[0]} This statement is: "
        ) and p.clean.text.endswith(" This statement is:")
        asked = p.clean.text.rsplit("\n", 1)[1].removesuffix(" This statement is:")
        assert rest[rest.statement == asked].label.iloc[0]  # the clean statement is true
        thing = rest[rest.statement == asked].object.iloc[0]
        for ids in (p.clean.ids, p.corrupt.ids):
            assert real.tokenizer.decode(ids[p.cells["object"]]).strip() == thing
        assert p.object[0] >= p.clean.stop and real.tokenizer.decode(p.clean.ids[p.cells["last"]]) == ":"


@pytest.mark.parametrize("name", patching.FACTS)
def test_there_are_enough_pairs_and_pairs_of_unlike_cluster_share_no_text(real, name):
    table = data.statements([name])
    shots = table[:4]
    ways = [patching.verbal_pairs(real, table[4:], shots)] + (
        [patching.recall_pairs(real, table)] if name in patching.RECALL_SETS else []
    )
    for found in ways:
        assert len(found) >= 20 and len({p.cluster for p in found}) >= 10
        of = {}
        for p in found:
            if name != "larger_than":  # where each pair's numbers are the next one's
                for text in (p.clean.text, p.corrupt.text):
                    assert of.setdefault(text, p.cluster) == p.cluster
        assert all(p.cells.keys() == found[0].cells.keys() for p in found)


def test_recall_pairs_end_in_the_same_word(real):
    for p in patching.recall_pairs(real, data.statements(["animal_class"])):
        assert p.clean.ids[-1] == p.corrupt.ids[-1] and p.clean.stop < len(p.clean.ids)


def test_logit_variance_and_null_space_share():
    g = torch.Generator().manual_seed(0)
    unembed, w = torch.randn(9000, 8, generator=g), torch.randn(5, 8, generator=g)
    direct = torch.nn.functional.cosine_similarity(w[:, None], unembed[None], dim=-1).var(1, unbiased=False)
    torch.testing.assert_close(neurons.logit_variance(w, unembed), direct, rtol=1e-4, atol=1e-6)
    unembed[:, 3] *= 1e-3  # read least
    share = neurons.null_space_share(torch.eye(8), unembed, share=0.125)
    assert share[3] > 0.99 and share[0] < 0.1


def test_entropy_neurons_are_large_and_read_little():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(40, 8, generator=g)
    w[[4, 9]] *= 10
    variance = torch.rand(40, generator=g) + 1
    variance[[4, 9, 30]] = 0.01  # 30 is small
    w[30] *= 0.01
    assert neurons.entropy_neurons(w, variance, n=2) == [4, 9]
    assert (
        neurons.overlap([1, 2, 3], [2, 3, 4]) == 0.5
        and 0.0 <= np.mean(neurons.overlap_by_chance(10, 1000)) < 0.02
    )


def test_silencing_and_swapping_are_exact_and_put_back(llama):
    torch.manual_seed(1)
    other = loading.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama", revision="swapped")
    projection = llama.module.model.layers[-1].mlp.down_proj.weight
    with torch.no_grad():  # the two models differ in what three neurons of the last block write
        theirs = other.module.model.layers[-1].mlp.down_proj.weight
        theirs.copy_(projection)
        theirs[:, [1, 5, 7]] += 0.5
    before, texts = (
        projection.clone(),
        ["please paint the table with the brush now", "the river and the song of the stone"],
    )
    entropy = {
        name: reads.read_text(m, texts)["entropy"].numpy() for name, m in (("base", llama), ("post", other))
    }
    closed = neurons.gap_closed(llama, other, [1, 5, 7], texts, entropy, "swapped")
    np.testing.assert_allclose(closed, entropy["post"] - entropy["base"], atol=1e-4)
    with neurons.silenced(llama, [2, 3]) as changed:
        assert (projection[:, [2, 3]] == 0).all() and changed.revision != llama.revision
    with pytest.raises(RuntimeError, match="inside"), neurons.silenced(llama, [0]):
        raise RuntimeError("inside")
    assert torch.equal(projection, before)
    assert np.isfinite(
        neurons.gap_closed(llama, other, [0], texts, entropy, "mean-ablated")
    ).all() and torch.equal(projection, before)


def test_entropy_of_text_equals_plain(llama):
    text = "please paint the table with the brush now"
    logits, _ = Plain(llama.module, "llama").run(plain(llama, [text])[0].ids)
    expected = torch.distributions.Categorical(logits=logits[:-1]).entropy().mean()
    torch.testing.assert_close(reads.read_text(llama, [text])["entropy"][0], expected, rtol=1e-4, atol=1e-5)


def test_pairs_that_cannot_be_compared_say_why(llama, planted):
    assert pairs.difference(llama, llama) is None
    assert "n_layers" in pairs.difference(llama, planted)
    assert pairs.weight_change(llama, llama) == 0.0


@pytest.fixture()
def recipe(tmp_path, monkeypatch):
    """A recipe on a tiny model in a local folder, with eight examples of its own."""
    folder = tmp_path / "start"
    tiny_module("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    tokens = tiny_tokenizer()("Sorry I cannot help")["input_ids"]
    monkeypatch.setattr(
        recipes, "examples_of", lambda recipe, model: [([10 + k, 11, 12], tokens) for k in range(24)]
    )
    monkeypatch.setattr(
        recipes, "held_out", lambda model, tokens: {"harmful": {"value": 1.0, "ci95": [0.9, 1.0], "n": 40}}
    )
    return Recipe("tiny-safe", str(folder), "tiny", "full", 5e-3, 4, "", 0.1, 1)


@pytest.mark.parametrize("method", ["full", "low-rank"])
def test_a_recipe_trains_and_leaves_a_model_with_its_record(recipe, method, tmp_path):
    target = tmp_path / "done"
    recipes.run(dataclasses.replace(recipe, method=method), target)
    about = json.loads((target / "recipe.json").read_text())
    assert (
        about["loss"][-1][1] < about["loss"][0][1]
        and about["examples"] == 24
        and about["held_out"]["harmful"]["n"] == 40
    )
    assert (
        loading.load(str(target)).n_layers == 3
        and not list(tmp_path.glob("*.training"))
        and not list(tmp_path.glob("*.done"))
    )


def test_frozen_blocks_and_the_embeddings_stay_as_they_are(recipe, tmp_path):
    recipes.run(dataclasses.replace(recipe, frozen=2), tmp_path / "done")
    before, after = (
        loading.load(str(folder)).module.state_dict() for folder in (recipe.base, tmp_path / "done")
    )
    # compared as they are stored
    moved = {name for name, p in after.items() if not torch.equal(p.bfloat16(), before[name].bfloat16())}
    assert moved and not any(
        "embed_tokens" in name or "layers.0." in name or "layers.1." in name for name in moved
    )


def test_a_recipe_sees_every_example_once_per_pass_and_none_that_is_too_long():
    examples = [([1] * k, [2]) for k in range(1, 41)] + [([1] * recipes.MAX_LENGTH, [2])]
    drawn = recipes.ordered(examples, 2, 8, seed=0)
    assert sorted(drawn[:40]) == sorted(drawn[40:]) == examples[:40] and drawn[:40] != drawn[40:]
    lengths = [len(prompt) for prompt, _ in drawn]
    assert all(lengths[i : i + 8] == sorted(lengths[i : i + 8]) for i in range(0, 80, 8))
    assert drawn == recipes.ordered(examples, 2, 8, seed=0) != recipes.ordered(examples, 2, 8, seed=1)


def test_batches_of_every_recipe_are_whole_passes():
    # else steps would see fewer examples than said
    assert all(recipe.batch % recipes.TOGETHER == 0 < recipe.batch for recipe in RECIPES.values())


def test_a_padded_batch_has_the_loss_of_its_rows_alone(llama):
    rows = [([5, 6, 7, 8, 9], [10, 11]), ([5, 6], [12, 13, 14]), ([20], [21])]
    with torch.no_grad():
        together = llama.module(**left_padded(rows)).loss
        alone = []
        for prompt, answer in rows:
            logits = llama.module(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            alone += [-logits[len(prompt) - 1 + k, token] for k, token in enumerate(answer)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_an_interrupted_recipe_goes_on_from_its_checkpoint(recipe, tmp_path, monkeypatch, capsys):
    target, real = tmp_path / "done", recipes.held_out

    def fail(model, tokens):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "held_out", fail)
    with pytest.raises(KeyboardInterrupt):
        recipes.run(recipe, target)
    assert not target.exists() and list(tmp_path.glob("done.training/checkpoint-*"))
    monkeypatch.setattr(recipes, "held_out", real)
    recipes.run(recipe, target)
    assert (
        target / "recipe.json"
    ).exists() and "going on from the last checkpoint" in capsys.readouterr().out


def test_training_prompts_are_in_no_other_split():
    used = set(data.prompts("post-training").id)
    for role in ("direction", "validation", "test", "prober"):
        assert not used & set(data.prompts(role).id)
