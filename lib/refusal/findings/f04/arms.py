"""Arms of notebook 04: what prompts do under a push whose strength a reader sets, and the readers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from refusal import data
from refusal.findings.f04 import push as pushing
from refusal.findings.f04 import released
from refusal.findings.f04.curves import Curve
from refusal.findings.f04.push import Push
from refusal.measure import directions, stats
from refusal.measure.judge import judge
from refusal.measure.probes import fit_prober
from refusal.measure.seen import Seen
from refusal.model.loading import Model
from refusal.trace import reads
from refusal.trace.decode import generate
from refusal.trace.edits import Row
from refusal.trace.last import score_last
from refusal.trace.prefix import Prefix

SIDES = ("harmful", "spared")  # spared: harmless and pseudo-harmful prompts
Strength = tuple[np.ndarray, np.ndarray | None]  # the scale [prompt] and the weights [prompt, layer]


def curve(
    model: Model,
    push: Push,
    seen: Mapping[str, Seen],
    strength: Mapping[str, Strength],
    alphas: Sequence[float],
    readout: Callable,
    prefix: Prefix | None,
) -> Curve:
    """Who is refused, by first tokens, at each α: of every side the prompts at a strength of their own;
    `prefix` is `before_last` of all of them.
    """
    rates = {
        side: np.stack(
            [
                pushing.refused(model, push.at(a).rows(seen[side].prompts, *strength[side]), readout, prefix)
                for a in alphas
            ]
        )
        for side in SIDES
    }
    return Curve(**rates)


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
    """States and labels of classes of different form: harmful dialogues, harmless instructions."""
    return torch.cat([framed, bare]), np.repeat([True, False], [len(framed), len(bare)])


def typical(strength: Strength) -> tuple[float, np.ndarray | None]:
    """The median scale and the mean weights over prompts."""
    s, w = strength
    return float(np.median(s)), None if w is None else w.mean(0)
