"""Patching grids, truth directions and entropy neurons against plain PyTorch and planted answers; post-training recipes."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Plain, tiny_module

from lib import data, models, neurons, pairs, patching, recipes, tracing, truth
from lib.errors import ParameterError
from lib.examples import left_padded
from lib.prompts import plain
from lib.registry import RECIPES, Recipe
from lib.tiny import tiny_tokenizer

TEXTS = [(f"please {v} the {a} with the {t}", f"please {v} the {b} with the {t}") for v, a, b, t in
         (("paint", "table", "lamp", "rope"), ("fold", "letter", "bread", "hammer"), ("weigh", "stone", "song", "ladder"))]  # fmt: skip


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
                assert float(grid[i, a, position]) == pytest.approx(plain_cell(tiny, tiny, pair, layer, position), abs=2e-3), (layer, position)


def test_patches_that_change_nothing_and_everything(llama):
    found = some_pairs(llama)
    clean, corrupt = patching.baseline(llama, found)
    grid = patching.grid(llama, llama, found, [0, 3])
    assert torch.allclose(grid[:, :, : found[0].clean.start], corrupt[:, None, None], atol=1e-4)  # before the first difference
    assert torch.allclose(grid[:, 1, -1], clean, atol=1e-3)  # the last layer at the last token
    same = [dataclasses.replace(p, corrupt=p.clean) for p in found]
    assert torch.allclose(patching.grid(llama, llama, same, [1, 2]), clean[:, None, None], atol=1e-3)


def test_patching_across_models_and_one_pair_at_a_time(llama):
    torch.manual_seed(5)
    other = models.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama", revision="other")
    with torch.no_grad():
        for p in other.module.parameters():
            p += 0.05 * torch.randn_like(p)
    found = some_pairs(llama)
    across = patching.grid(llama, other, found, [1, 3])
    assert float(across[1, 0, 4]) == pytest.approx(plain_cell(llama, other, found[1], 1, 4), abs=2e-3)
    one = torch.cat([patching.grid(llama, other, [p], [1, 3]) for p in found])
    torch.testing.assert_close(one, across, rtol=1e-3, atol=1e-3)


def test_pairs_of_another_pattern_are_left_out(llama):
    mixed = [*TEXTS, ("the river and the song of the stone", "the river and the lamp of the stone"), ("paint the table", "paint the table now")]
    assert len(patching.pairs(llama, mixed, [(20, 30)] * 5)) == 3
    assert patching.pairs(llama, [("paint", "paint")], [(20, 30)]) == []
    assert patching.pairs(llama, TEXTS[:1], [(20, 20)]) == []  # no difference to read
    assert patching.pairs(llama, [("paint the table", "paint the lamp")], [(20, 30)]) == []  # the token that is read differs


def test_binning_and_agreement_of_grids():
    m = np.array([[0.0, 0.4], [0.6, 1.0]])
    assert patching.binned(m).tolist() == [[0.0, 0.0], [pytest.approx(0.625), pytest.approx(0.975)]]
    assert patching.binned(np.ones((2, 2))).tolist() == [[0, 0], [0, 0]]
    same = patching.compare(m, m)
    assert same["r_raw"] == pytest.approx(1) and same["max_diff"] == 0 and same["r_nonzero"] is None
    rng = np.random.default_rng(0)
    signal = np.zeros((12, 5))
    signal[3:7, 1], signal[8:, 4] = [0.6, 0.9, 1.0, 0.7], [0.55, 0.7, 0.85, 1.0]
    a, b, c = (pairs.Grid(s + 0.05 * rng.normal(size=(30, 12, 5)), np.ones(30), np.zeros(30)) for s in (signal, signal, signal[::-1]))
    alike, unlike = pairs.compare_grids(a, b, 1, 2), pairs.compare_grids(a, c, 1, 2)
    assert alike["r_nonzero"]["ci95"][0] > alike["null_r_nonzero"]["ci95"][1] and alike["r_raw"]["value"] > 0.95 > unlike["r_raw"]["value"]
    assert alike["max_diff_knowledge"]["value"] <= alike["max_diff"]["value"] and unlike["max_diff"]["value"] > 0.8
    assert pairs.peak_ratio(b, a)["value"] == pytest.approx(1, abs=0.1) and pairs.peak_ratio(c, a)["value"] < 0.6


def test_truth_is_found_where_it_was_planted():
    g = torch.Generator().manual_seed(0)
    sets, label = np.repeat(["a", "b", "c"], 40), np.tile([True, False], 60)
    acts = torch.randn(120, 2, 16, generator=g) * 0.3 + torch.tensor([5.0 * "abc".index(s) for s in sets])[:, None, None]
    acts[label, 1, 0] += 2.0
    v = truth.direction(acts, label, sets)
    assert v[1, 0] / v[1].norm() > 0.95 > v[0, 0] / v[0].norm()
    accuracy = truth.held_out_accuracy(acts, acts, label, sets)
    assert accuracy.shape == (3, 2) and (accuracy[:, 1] > 0.95).all() and (accuracy[:, 0] < 0.8).all()
    assert truth.held_out_accuracy(acts, acts, truth.shuffled_within(label, sets), sets)[:, 1].mean() < 0.7
    moved = acts.clone()
    moved[..., 0] += 3.0  # an offset between two models: hidden by the tested set's own mean, seen with the training mean
    assert truth.held_out_hits(acts[:, 1], moved[:, 1], label, sets, "b", "own").mean() > 0.95
    same = np.repeat(["a"], 40).tolist() + np.repeat(["b"], 40).tolist() + np.repeat(["a"], 40).tolist()
    level = acts - truth_level(acts, sets)
    assert truth.held_out_hits(level[:, 1], level[:, 1], label, same, "b", "training").mean() > 0.9
    assert truth.held_out_hits(level[:, 1], level[:, 1] + moved[0, 1] - acts[0, 1], label, same, "b", "training").mean() < 0.6


def truth_level(acts, sets):
    return torch.stack([acts[sets == s].mean(0) for s in sets])


def test_shift_is_the_added_vector_at_the_layer_itself(llama):
    prompts = plain(llama, ["paint the table with the rope", "weigh the stone"])
    v = torch.randn(32, generator=torch.Generator().manual_seed(1))
    reader = torch.randn(32, generator=torch.Generator().manual_seed(2))
    moved = truth.shift(llama, prompts, v, 2, 2, reader, [True, False])
    torch.testing.assert_close(moved, torch.tensor([-1.0, 1.0]) * (v @ reader), rtol=1e-3, atol=1e-3)
    above = truth.shift(llama, prompts, v, 1, 3, reader, [True, False])

    def edit(site, layer, x):
        if site == "resid" and layer == 1:
            x = x.clone()
            x[0, -2:] -= v
        return x

    plain_llama = Plain(llama.module, "llama")
    by_hooks = (plain_llama.run(prompts[0].ids, edit)[1]["resid"][3, -1] - plain_llama.run(prompts[0].ids)[1]["resid"][3, -1]) @ reader
    assert float(above[0]) == pytest.approx(float(by_hooks), abs=2e-3)


def test_statements_are_drawn_balanced_and_seeded():
    table = data.statements(["cities", "larger_than"], pairs=20, seed=1)
    assert table.groupby("set").label.sum().tolist() == [20, 20] and len(table) == 80
    cities = table[table.set == "cities"]
    assert (cities.groupby("subject").label.agg(["sum", "size"]) == [1, 2]).all(None)
    assert table.equals(data.statements(["cities", "larger_than"], pairs=20, seed=1)) and not table.equals(data.statements(["cities", "larger_than"], pairs=20))
    for bad in ({"names": ["citties"]}, {"names": ["cities"], "pairs": 0}, {"names": ["cities"], "pairs": 10_000}):
        with pytest.raises(ParameterError):
            data.statements(**bad)


def test_recall_asks_for_the_object(planted):
    table = pd.DataFrame(
        [("cities", "the river with the rope", True, "river", "rope", "1"), ("cities", "the song with the brush", True, "song", "brush", "2"),
         ("cities", "the song with the rope", False, "song", "rope", "1"), ("cities", "the river with the brush", False, "river", "brush", "2")],
        columns=["set", "statement", "label", "subject", "object", "pair"],
    )  # fmt: skip
    ids = planted.tokenizer.get_vocab()
    first, second = patching.recall_pairs(planted, table)
    assert first.clean.text == "the river with the" and first.corrupt.text == "the song with the" and first.answers == (ids["rope"], ids["brush"])
    assert second.answers == (ids["brush"], ids["rope"])


def test_verbal_pairs_share_shots_and_object_and_differ_in_the_subject(real):
    table = data.statements(["cities"], pairs=60)
    shots, rest = table[:4], table[4:]
    found = patching.verbal_pairs(real, rest, shots)
    assert len(found) >= 8 and len({p.answers for p in found}) == 1
    for p in found:
        assert p.clean.ids[: p.clean.start] == p.corrupt.ids[: p.clean.start] and p.clean.ids[p.clean.stop :] == p.corrupt.ids[p.clean.stop :]
        assert p.clean.text.startswith(f"{shots.statement.iloc[0]} This statement is: ") and p.clean.text.endswith(" This statement is:")
        asked = p.clean.text.rsplit("\n", 1)[1].removesuffix(" This statement is:")
        assert rest[rest.statement == asked].label.iloc[0]  # the clean statement is true


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
    assert neurons.overlap([1, 2, 3], [2, 3, 4]) == 0.5 and 0.0 <= np.mean(neurons.overlap_by_chance(10, 1000)) < 0.02


def test_silencing_and_swapping_are_exact_and_put_back(llama):
    torch.manual_seed(1)
    other = models.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama", revision="swapped")
    projection = llama.module.model.layers[-1].mlp.down_proj.weight
    with torch.no_grad():  # the two models differ in what three neurons of the last block write
        theirs = other.module.model.layers[-1].mlp.down_proj.weight
        theirs.copy_(projection)
        theirs[:, [1, 5, 7]] += 0.5
    before, texts = projection.clone(), ["please paint the table with the brush now", "the river and the song of the stone"]
    entropy = {name: tracing.read_text(m, texts)["entropy"].numpy() for name, m in (("base", llama), ("post", other))}
    closed = neurons.gap_closed(llama, other, [1, 5, 7], texts, entropy, "swapped")
    np.testing.assert_allclose(closed, entropy["post"] - entropy["base"], atol=1e-4)
    with neurons.silenced(llama, [2, 3]) as changed:
        assert (projection[:, [2, 3]] == 0).all() and changed.revision != llama.revision
    with pytest.raises(RuntimeError, match="inside"), neurons.silenced(llama, [0]):
        raise RuntimeError("inside")
    assert torch.equal(projection, before)
    assert np.isfinite(neurons.gap_closed(llama, other, [0], texts, entropy, "mean-ablated")).all() and torch.equal(projection, before)


def test_entropy_of_text_equals_plain(llama):
    text = "please paint the table with the brush now"
    logits, _ = Plain(llama.module, "llama").run(plain(llama, [text])[0].ids)
    expected = torch.distributions.Categorical(logits=logits[:-1]).entropy().mean()
    torch.testing.assert_close(tracing.read_text(llama, [text])["entropy"][0], expected, rtol=1e-4, atol=1e-5)


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
    monkeypatch.setitem(recipes.EXAMPLES, "tiny", lambda model, seed: [([10 + k, 11, 12], tokens) for k in range(24)])
    monkeypatch.setattr(recipes, "held_out", lambda model: {"harmful": {"value": 1.0, "ci95": [0.9, 1.0], "n": 40}})
    return Recipe("tiny-safe", str(folder), "tiny", "full", 5e-3, 4, "", 0.1, 1)


@pytest.mark.parametrize("method", ["full", "low-rank"])
def test_a_recipe_trains_and_leaves_a_model_with_its_record(recipe, method, tmp_path):
    target = tmp_path / "done"
    recipes.run(dataclasses.replace(recipe, method=method), target)
    about = json.loads((target / "recipe.json").read_text())
    assert about["loss"][-1][1] < about["loss"][0][1] and about["examples"] == 24 and about["held_out"]["harmful"]["n"] == 40
    assert models.load(str(target)).n_layers == 3 and not list(tmp_path.glob("*.training")) and not list(tmp_path.glob("*.done"))


def test_frozen_blocks_and_the_embeddings_stay_as_they_are(recipe, tmp_path):
    recipes.run(dataclasses.replace(recipe, frozen=2), tmp_path / "done")
    before, after = (models.load(str(folder)).module.state_dict() for folder in (recipe.base, tmp_path / "done"))
    moved = {name for name, p in after.items() if not torch.equal(p.bfloat16(), before[name].bfloat16())}  # as they are stored
    assert moved and not any("embed_tokens" in name or "layers.0." in name or "layers.1." in name for name in moved)


def test_a_recipe_sees_every_example_once_per_pass_and_none_that_is_too_long():
    examples = [([1] * k, [2]) for k in range(1, 41)] + [([1] * recipes.MAX_LENGTH, [2])]
    drawn = recipes.ordered(examples, 2, 8, seed=0)
    assert sorted(drawn[:40]) == sorted(drawn[40:]) == examples[:40] and drawn[:40] != drawn[40:]
    lengths = [len(prompt) for prompt, _ in drawn]
    assert all(lengths[i : i + 8] == sorted(lengths[i : i + 8]) for i in range(0, 80, 8))
    assert drawn == recipes.ordered(examples, 2, 8, seed=0) != recipes.ordered(examples, 2, 8, seed=1)


def test_batches_of_every_recipe_are_whole_passes():
    assert all(recipe.batch % recipes.TOGETHER == 0 < recipe.batch for recipe in RECIPES.values())  # else steps would see fewer examples than said


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

    def fail(model):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "held_out", fail)
    with pytest.raises(KeyboardInterrupt):
        recipes.run(recipe, target)
    assert not target.exists() and list(tmp_path.glob("done.training/checkpoint-*"))
    monkeypatch.setattr(recipes, "held_out", real)
    recipes.run(recipe, target)
    assert (target / "recipe.json").exists() and "going on from the last checkpoint" in capsys.readouterr().out


def test_training_prompts_are_in_no_other_split():
    used = set(data.prompts("post-training").id)
    for role in ("direction", "validation", "test", "prober"):
        assert not used & set(data.prompts(role).id)
