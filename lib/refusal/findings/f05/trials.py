"""What is trained in notebook 05: soft prompts by DRO and by what stands beside it, and the line between the
text they begin as and what they become.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.findings.f05 import arms, dro
from refusal.findings.f05.dro import Dro, FirstToken
from refusal.measure import stats
from refusal.measure.seen import Seen
from refusal.measure.tradeoff import Curve, chosen
from refusal.model.loading import Model
from refusal.trace.edits import Patch
from refusal.trace.prompts import Prompt
from refusal.train import soft_prompt
from refusal.train.soft_prompt import Objective

BATCH = 8
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5)  # of the way from the start to the trained prompt
Trained = tuple[Float[Tensor, "token d"], list[float]]  # the soft prompt and the loss of each step


def plan(
    loss: Dro, trivial: FirstToken, n_seeds: int, n_random: int, seed: int
) -> dict[str, tuple[Objective, int]]:
    """Every training but prompt tuning: {name: (objective, seed of its batches)}."""
    found: dict[str, tuple[Objective, int]] = {
        f"DRO, seed {seed + i}": (loss, seed + i) for i in range(n_seeds)
    }
    found["swapped"] = (dro.swapped(loss), seed)
    found |= {f"random {i + 1}": (dro.along(loss, seed + i), seed) for i in range(n_random)}
    left_out = {"without L_U": {"rest": 0.0}, "without L_h": {"harm": 0.0}, "without L_r": {"refuse": 0.0}}
    found |= {name: (replace(loss, **weights), seed) for name, weights in left_out.items()}
    return found | {"first token": (trivial, seed)}


def train(
    model: Model,
    prompts: Sequence[Prompt],
    theta: Tensor,
    plan: Mapping[str, tuple[Objective, int]],
    n_steps: int,
    learning_rate: float,
    up: np.ndarray,
) -> dict[str, Trained]:
    """Each training of a plan, from the same start on the same prompts."""
    return {
        name: soft_prompt.train(
            model,
            prompts,
            theta,
            objective,
            arms.steps(n_steps, BATCH, up, seed),
            learning_rate=learning_rate,
            label=f"training: {name}",
        )
        for name, (objective, seed) in plan.items()
    }


def answers_of(seen: Mapping[str, Seen]) -> dict[str, list[tuple[str, str]]]:
    """What each prompt was answered under several system prompts: {its id: [(outcome, answer)]}."""
    found: dict[str, list[tuple[str, str]]] = {}
    for s in seen.values():
        for p, outcome, text in zip(s.prompts, s.outcome, s.answers, strict=True):
            found.setdefault(p.id, []).append((str(outcome), text))
    return found


def tune(
    model: Model,
    prompts: Sequence[Prompt],
    theta: Tensor,
    said: Mapping[str, Sequence[tuple[str, str]]],
    n_steps: int,
    learning_rate: float,
    seed: int,
    n_tokens: int = 12,
) -> Trained:
    """Prompt tuning on the model's own answers to the same prompts, with as many steps."""
    with_answers, objective, up = arms.tuning(model, prompts, said, n_tokens)
    return soft_prompt.train(
        model,
        with_answers,
        theta,
        objective,
        arms.steps(n_steps, BATCH, up, seed),
        learning_rate=learning_rate,
        label="training: prompt tuning",
    )


def final_under(model: Model, prompts: Sequence[Prompt], edits: Sequence[Patch]) -> Float[Tensor, "prompt d"]:
    """What the paper reads of prompts under a soft prompt."""
    return arms.final(model, arms.states(model, arms.rows(prompts, edits), [model.n_layers]))


def parted(
    model: Model, prompts: Mapping[str, Sequence[Prompt]], loss: Dro, edits: Sequence[Patch]
) -> dict[str, float]:
    """How far apart the regression for complying sees harmless and harmful prompts, which it was not trained
    on, before and after; and how far states move off the components, in what they spread there.
    """
    groups = [prompts[g] for g in ("harmless", "harmful")]
    before, after = ([final_under(model, p, e) for p in groups] for e in ((), edits))
    gap = lambda xs: (
        float((loss.at.components(xs[0]) @ loss.at.refusing).mean())
        - float((loss.at.components(xs[1]) @ loss.at.refusing).mean())
    )
    moved = torch.cat(after) - torch.cat(before)
    inside = moved @ loss.at.directions.T
    off = (moved.square().sum(1) - inside.square().sum(1)).mean() / (moved.shape[1] - inside.shape[1])
    return {"before": gap(before), "after": gap(after), "off": float(off / loss.at.rest) ** 0.5}


@dataclass(frozen=True)
class Line:
    """The soft prompts from the states `start` of a text on; `readout` scores the first token, and above
    `cut` a refusal begins.
    """

    model: Model
    start: Tensor
    readout: Callable
    cut: float

    def at(self, end: Tensor, share: float) -> tuple[Patch, ...]:
        """The edits at a share of the way to a trained prompt."""
        return soft_prompt.soft(self.start + share * (end - self.start))

    def refused(self, prompts: Sequence[Prompt], edits: Sequence[Patch]) -> np.ndarray:
        """Whether first tokens begin refusals [prompt]."""
        x = final_under(self.model, prompts, edits)
        return arms.scores(self.model, arms.rows(prompts, edits), x, self.readout) > self.cut

    def curve(self, end: Tensor, prompts: Mapping[str, Sequence[Prompt]], shares=SHARES) -> Curve:
        """Who is refused at each share of the way: harmful prompts, and all others."""
        spared = [p for g, some in prompts.items() if g != "harmful" for p in some]
        sides = [
            np.stack([self.refused(side, self.at(end, share)) for share in shares])
            for side in (prompts["harmful"], spared)
        ]
        return Curve(*sides)

    def chosen(self, end: Tensor, prompts: Mapping[str, Sequence[Prompt]]) -> float:
        """The share at which most harmful prompts are refused at no more than five points' cost."""
        spared = [p for g, some in prompts.items() if g != "harmful" for p in some]
        base = self.refused(spared, ()).mean()
        return chosen(SHARES, *self.curve(end, prompts).rates, base)


def cos(a: Tensor, b: Tensor) -> float:
    """The cosine of two vectors."""
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def refused_rates(seen: Mapping[str, Seen]) -> tuple[float, float]:
    """The shares refused of harmful prompts and of all others."""
    spared = np.concatenate([s.refused for g, s in seen.items() if g != "harmful"])
    return float(seen["harmful"].refused.mean()), float(spared.mean())


def rate(kinds: Sequence[np.ndarray], kind: str) -> Estimate:
    """Estimate of the share of answers of one kind, from one or several answers to each prompt [answer]
    [prompt]: prompts are what varies.
    """
    hits = np.array([k == kind for k in kinds])
    return stats.rate(hits[0]) if len(hits) == 1 else stats.mean(hits.mean(0))
