"""Arms of notebook 04: what prompts do under a push whose strength a reader sets, and the readers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from refusal import data
from refusal.findings.f04 import released
from refusal.findings.f04.controller import Controller, strengths
from refusal.findings.f04.push import Push
from refusal.measure import directions, stats
from refusal.measure.judge import judge
from refusal.measure.probes import fit_prober
from refusal.measure.seen import Seen, joined
from refusal.measure.text_baselines import best_reader, embedding_reader, form_reader, tfidf_reader
from refusal.measure.tradeoff import Curve, chosen, gate
from refusal.model.loading import Model
from refusal.trace import reads
from refusal.trace.decode import generate
from refusal.trace.edits import Row
from refusal.trace.last import score_last
from refusal.trace.prompts import chat

SIDES = ("harmful", "spared")  # spared: harmless and pseudo-harmful prompts
Reader = Callable[[Seen], np.ndarray]
Told = Callable[[Sequence[Row]], np.ndarray]  # which rows are refused
Strength = tuple[np.ndarray, np.ndarray | None]  # the scale [prompt] and the weights [prompt, layer]


def curve(
    push: Push,
    seen: Mapping[str, Seen],
    strength: Mapping[str, Strength],
    alphas: Sequence[float],
    told: Told,
) -> Curve:
    """Who is refused, by first tokens, at each α: of every side the prompts at a strength of their own;
    `told` says which rows are.
    """
    rows = lambda side, a: push.at(a).rows(seen[side].prompts, *strength[side])
    return Curve(*(np.stack([told(rows(side, a)) for a in alphas]) for side in SIDES))


def unpushed(own: Mapping[str, np.ndarray]) -> Curve:
    """One point: who is refused as it is, by the model's own scores of both sides."""
    return Curve(*(own[side][None] > 0 for side in SIDES))


def full(seen: Mapping[str, Seen]) -> dict[str, Strength]:
    """The fixed push: scale 1 and w = ½ for every prompt."""
    return {side: (np.ones(len(s.prompts)), None) for side, s in seen.items()}


def point(curve: Curve, k: int) -> Curve:
    """One point of a curve."""
    return Curve(curve.harmful[[k]], curve.spared[[k]])


def t_post(seen: Seen) -> Float[Tensor, "prompt layer d"]:
    """What a controller reads, of every layer."""
    return seen.states[:, :, 1]


def logistic(states: Float[Tensor, "prompt layer d"], harmful: np.ndarray, layers: Sequence[int]):
    """A logistic regression on the states of `layers` together: states → P(harmful) [prompt]."""
    together = lambda x: x[:, list(layers)].flatten(1)[:, None]
    fitted = fit_prober(together(states), harmful)
    return lambda x: fitted.of(together(x))[:, 0].numpy()


def cosine(states: Float[Tensor, "prompt layer d"], harmful: np.ndarray, layer: int):
    """A condition as in conditional steering (arXiv 2409.05907): the cosine of a layer's state with the
    difference of the classes' means, states → [prompt].
    """
    apart = directions.difference_of_means(states[:, layer], harmful, ~harmful)
    return lambda x: directions.cosine(x[:, layer], apart.expand_as(x[:, layer])).numpy()


def in_frames(table: pd.DataFrame) -> pd.DataFrame:
    """The prompts of a table as `framed_texts`."""
    return table.assign(text=framed_texts(list(table.text)))


def judged(model: Model, rows, max_new_tokens: int) -> tuple[list[str], list[str]]:
    """The judged answers of rows: (outcomes, texts)."""
    texts = generate(model, rows, decoding=max_new_tokens, label="answers under the push")
    return [judge(text) for text in texts], texts


def equal_weights(strengths: Mapping[str, Mapping[str, Strength]]) -> dict[str, dict[str, Strength]]:
    """Of {role: {side: strength}} the same scales, with weights equal over layers, of the same mean for
    each prompt.
    """
    flat = lambda w: np.broadcast_to(w.mean(1, keepdims=True), w.shape)
    return {role: {side: (s, flat(w)) for side, (s, w) in by.items()} for role, by in strengths.items()}


def scaled(reader: Callable[[Tensor], np.ndarray], sides) -> dict[str, dict[str, Strength]]:
    """A reader's score of states as the scale, w = ½: {role: {side: strength}}."""
    return {role: {side: (reader(t_post(s)), None) for side, s in by.items()} for role, by in sides.items()}


def scores(model: Model, seen: Mapping[str, Seen], readout: Callable, prefix) -> dict[str, np.ndarray]:
    """The model's own score of refusal of each side's prompts, above 0 refused."""
    return {
        side: score_last(model, [Row(p) for p in s.prompts], readout, prefix).numpy()
        for side, s in seen.items()
    }


def best_cosine(states: Tensor, harmful: np.ndarray, layers: Sequence[int], bad: Seen, good: Seen):
    """`cosine` at the one of `layers` that ranks these validation prompts best."""
    found = {k: cosine(states, harmful, k) for k in layers}
    area = lambda k: stats.area(found[k](t_post(bad)), found[k](t_post(good)))
    return found[max(found, key=area)]


def share_of_norm(push: Push, states: Float[Tensor, "prompt layer d"]) -> float:
    """How large the fixed push is beside the states that it is added to: the mean over prompts and layers."""
    added = push.alpha / len(push.layers) * push.vectors.norm(dim=-1)
    return float((added / states[:, list(push.layers)].norm(dim=-1)).mean())


def framed_texts(texts: Sequence[str]) -> list[str]:
    """Requests inside dialogues of two turns, a frame after the other."""
    frames = data.dialogue_frames()
    return [frames[i % len(frames)].replace("{x}", text) for i, text in enumerate(texts)]


def worded(table: pd.DataFrame, wordings: Sequence[str]) -> pd.DataFrame:
    """Requests in the wordings' ``{x}``, one after the other, without final punctuation."""
    texts = [wordings[i % len(wordings)].replace("{x}", text) for i, text in enumerate(table.text)]
    return data.without_final_punctuation(table.assign(text=texts))


def collected(model: Model, prompts) -> Float[Tensor, "prompt layer d"]:
    """States where the released training reads them: at the last token without the generation prompt."""
    return reads.collect(model, prompts, at=released.trained_at(model, prompts))["resid"][:, :, 0]


def taught_in_frames(framed: Tensor, bare: Tensor) -> tuple[Tensor, np.ndarray]:
    """States and labels of classes of different form: harmful dialogues, harmless instructions, as far up as
    the former were read.
    """
    return torch.cat([framed, bare[:, : framed.shape[1]]]), np.repeat([True, False], [len(framed), len(bare)])


def typical(strength: Strength) -> tuple[float, np.ndarray | None]:
    """The median scale and the mean weights over prompts."""
    s, w = strength
    return float(np.median(s)), None if w is None else w.mean(0)


SOURCES = {"harmful": {"label": "harmful"}, "harmless": {"source": "harmless"}}
PSEUDO = {"pseudo-harmful": {"source": "pseudo_harmful"}}


def tables(prompts_of: Callable, n: int, n_test: int, n_pseudo: int) -> dict[tuple[str, str], pd.DataFrame]:
    """{(role, group): prompts}: what teaches (``direction`` and ``prober``), chooses and tests."""
    sizes = {"direction": n, "prober": None, "validation": None, "test": n_test}
    found = {(role, g): prompts_of(role, n=k, **w) for role, k in sizes.items() for g, w in SOURCES.items()}
    for role, k in (("validation", None), ("test", n_pseudo)):
        found |= {(role, g): prompts_of(role, n=k, **which) for g, which in PSEUDO.items()}
    return found


def by_use(seen: Mapping[tuple[str, str], Seen]) -> tuple[Seen, dict[str, dict[str, Seen]], dict[str, Seen]]:
    """What teaches, as one; {role: {side: what chooses or tests}}; and {group: what tests}."""
    taught = joined([s for (role, _), s in seen.items() if role in ("direction", "prober")])
    sides = {
        role: {
            "harmful": seen[role, "harmful"],
            "spared": joined([seen[role, "harmless"], seen[role, "pseudo-harmful"]]),
        }
        for role in ("validation", "test")
    }
    return taught, sides, {g: seen["test", g] for g in (*SOURCES, *PSEUDO)}


def readers(
    taught: Seen,
    harmful: np.ndarray,
    layers: Sequence[int],
    validation: Mapping[str, Seen],
    embeddings: bool,
) -> tuple[dict[str, Reader], str]:
    """What reads harm beside a controller, taught on the same prompts: a logistic regression on the same
    layers, a cosine, and readers of text; and the name of the best reader of text on validation prompts.
    """
    states, by_kind = (
        t_post(taught),
        [list(np.array(taught.texts)[harmful == kind]) for kind in (True, False)],
    )
    inside = {
        "logistic": logistic(states, harmful, layers),
        "cosine": best_cosine(states, harmful, layers, *(validation[g] for g in SOURCES)),
    }
    outside = {"TF-IDF": tfidf_reader(*by_kind)}
    if embeddings:  # the encoder is a download of its own
        outside["sentence embeddings"] = embedding_reader(*by_kind)
    best = best_reader(outside, *(validation[g].texts for g in SOURCES))
    outside["form"] = form_reader(*by_kind)
    found: dict[str, Reader] = {name: lambda s, f=f: f(t_post(s)) for name, f in inside.items()}
    return found | {name: lambda s, f=f: f(s.texts) for name, f in outside.items()}, best


def scale(controller: Controller) -> Reader:
    """A controller's scale of prompts."""
    return lambda seen: strengths(controller, t_post(seen))[0]


def weighed(controller: Controller, sides) -> dict[str, dict[str, Strength]]:
    """A controller's strengths, {role: {side: strength}}."""
    return {
        role: {side: strengths(controller, t_post(s)) for side, s in by.items()} for role, by in sides.items()
    }


def swept(
    push: Push, sides, strength: Mapping[str, Mapping], alphas: Sequence[float], told: Told
) -> dict[str, dict[str, Curve]]:
    """The curve of each arm on what chooses and on what tests: {name: {role: curve}}."""
    return {
        name: {role: curve(push, s, by[role], alphas, told) for role, s in sides.items()}
        for name, by in strength.items()
    }


def gated(scores: Mapping[str, Mapping[str, np.ndarray]], plain: Curve, pushed: Curve) -> dict[str, Curve]:
    """The curve of a gate by each score, of {side: scores}: {"name gate": curve}."""
    return {f"{name} gate": gate((by["harmful"], by["spared"]), plain, pushed) for name, by in scores.items()}


def in_other_form(
    model: Model, tables: Mapping[tuple[str, str], pd.DataFrame], top: int
) -> dict[tuple[str, str], Float[Tensor, "prompt layer d"]]:
    """States, up to layer `top`, of the prompts put into dialogues: the harmful ones that teach, and those of
    both kinds that test.
    """
    wanted = (("direction", "harmful"), ("test", "harmful"), ("test", "harmless"))
    asked = {key: chat(model, in_frames(tables[key])) for key in wanted}
    return {key: _up_to(model, p, top) for key, p in asked.items()}


def in_other_words(
    model: Model, tables: Mapping[tuple[str, str], pd.DataFrame], n: int, seed: int, top: int
) -> dict[tuple[str, str], Float[Tensor, "prompt layer d"]]:
    """States, up to layer `top`, of `n` test prompts of each kind in persuasions and in jailbreak templates:
    {(form, group): states}.
    """
    forms = {
        "persuasion": data.persuasions(),
        "template": [t + "\n\n{x}" for t in data.jailbreak_templates(12, seed)],
    }
    found = {}
    for form, wordings in forms.items():
        for g in SOURCES:
            asked = chat(model, worded(tables["test", g].iloc[:n], wordings))
            found[form, g] = _up_to(model, asked, top)
    return found


def _up_to(model: Model, prompts, top: int) -> Float[Tensor, "prompt layer d"]:
    return reads.collect(model, prompts, at=["t_post"], layers=range(top + 1))["resid"][:, :, 0]


def at_chosen(
    swept: Mapping[str, Mapping[str, Curve]],
    names: Sequence[str],
    alphas: Sequence[float],
    plain: Mapping[str, Curve],
) -> dict[str, list[float]]:
    """How much more is refused, by first tokens, under each arm at the strength that validation prompts
    choose for it, on both sides of the test prompts: {side: difference [arm]}.
    """
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for name in names:
        best = chosen(alphas, *swept[name]["validation"].rates, plain["validation"].spared.mean())
        at = swept[name]["test"]
        for side, now, before in (
            ("harmful", at.harmful, plain["test"].harmful),
            ("spared", at.spared, plain["test"].spared),
        ):
            found[side].append(float(now[list(alphas).index(best)].mean() - before.mean()))
    return found
