"""What directed representation optimization fits and what it minimises (arXiv 2401.18018, section 3), and the
objectives that stand beside it.

The paper's labels are the share of sampled answers that comply; here each prompt has one, under each of five
system prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from refusal.measure import stats

M = 4  # components, as in the paper
HARM, REST = (
    0.01,
    0.1,
)  # weights of the second and the third term; the paper's third is 0.001, which does nothing
FOLDS = 10


@dataclass(frozen=True, eq=False)
class Boundary:
    """Two logistic regressions on M components of states: f_r, whether a prompt is complied with, and f_h,
    whether it is harmless. `axes` [M, d_model] maps Δx to standardised components, `rest` is the mean square
    of what is off them, per dimension.
    """

    mean: Float[Tensor, "d"]
    axes: Float[Tensor, "m d"]
    directions: Float[Tensor, "m d"]
    refusing: Float[Tensor, "m"]
    harmless: Float[Tensor, "m"]
    rest: float

    @property
    def weights(self) -> Float[Tensor, "d"]:
        """The direction of the states along which f_r grows."""
        return self.axes.T @ self.refusing

    def components(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest m"]:
        """Standardised components of states."""
        return (x - self.mean) @ self.axes.T


def boundary(
    states: Float[Tensor, "row d"], complied: np.ndarray, harmless: np.ndarray, m: int = M
) -> Boundary:
    """The two regressions on `states` of all system prompts together, converged, on standardised components.

    Raises ValueError for as many components as states, or where all comply or none does.
    """
    if m >= len(states):
        raise ValueError(f"{m} components of {len(states)} states")
    if len(set(np.asarray(complied).tolist())) < 2:
        raise ValueError("all of these prompts were complied with, or none")
    pca = PCA(m, svd_solver="full").fit(states.numpy())
    directions = torch.from_numpy(pca.components_).float()
    scale = torch.from_numpy(np.sqrt(pca.explained_variance_)).float()
    z = ((states - states.mean(0)) @ directions.T / scale[None]).numpy()
    weights = [torch.from_numpy(_logistic().fit(z, y).coef_[0]).float() for y in (complied, harmless)]
    off = states - states.mean(0)
    off = off - off @ directions.T @ directions
    spread = float(off.square().sum(1).mean() / (states.shape[1] - m))
    return Boundary(states.mean(0), directions / scale[:, None], directions, *weights, spread)


def _logistic() -> LogisticRegression:
    return LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")


def held_out(
    states: Float[Tensor, "row d"],
    label: ArrayLike,
    group: ArrayLike,
    m: int = M,
    folds: int = FOLDS,
    apart: bool = True,
) -> np.ndarray:
    """Scores of a regression on M components of rows that it was not fitted on; with `apart` all rows of one
    prompt are left out together, without it, as in the paper, row by row.
    """
    z, label, group = (
        PCA(m, svd_solver="full").fit_transform(states.numpy()),
        np.asarray(label),
        np.asarray(group),
    )
    z = z / z.std(0)
    folds = min(folds, len(set(group.tolist())))
    cut = GroupKFold(folds) if apart else KFold(folds, shuffle=True, random_state=0)
    return cross_val_predict(
        _logistic(), z, label, groups=group if apart else None, cv=cut, method="decision_function"
    )


def reader(states: Float[Tensor, "row d"], label: ArrayLike, m: int = M):
    """A regression on M components, fitted on these states: states → scores [row]."""
    pca = PCA(m, svd_solver="full").fit(states.numpy())
    scale = np.sqrt(pca.explained_variance_)
    fitted = _logistic().fit(pca.transform(states.numpy()) / scale, np.asarray(label))
    return lambda x: fitted.decision_function(pca.transform(x.numpy()) / scale)


def as_released(
    states: Float[Tensor, "row d"], label: ArrayLike, m: int = M, most: int = 2000
) -> tuple[float, int]:
    """The regression as the released code fits it: AdamW at 1e-4 on raw components, until three steps gain
    less than 1e-4: the area under it on the rows that it was fitted on, and its steps.
    """
    pca = PCA(m, svd_solver="full").fit(states.numpy())
    z, y = (
        torch.from_numpy(pca.transform(states.numpy())).float(),
        torch.as_tensor(np.asarray(label, float)).float(),
    )
    torch.manual_seed(0)
    line = torch.nn.Linear(m, 1)
    optimizer, before, still, step = torch.optim.AdamW(line.parameters(), lr=1e-4), float("inf"), 0, 0
    while still < 3 and step < most:
        loss = cross_entropy(line(z)[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        still = still + 1 if before - float(loss.detach()) < 1e-4 else 0
        before, step = float(loss.detach()), step + 1
    return float(area((z @ line.weight.detach()[0]).numpy(), np.asarray(label, bool))), step


@dataclass(frozen=True, eq=False)
class Dro:
    """The paper's loss: f_r and f_h of harmful prompts fall, those of harmless ones rise, and what is off the
    components stays. `before` [prompt, d_model] are the states under the start, `up` [prompt] is 1 for
    harmless prompts. Weights of 0 leave a term out.
    """

    at: Boundary
    before: Float[Tensor, "prompt d"]
    up: Float[Tensor, "prompt"]
    refuse: float = 1.0
    harm: float = HARM
    rest: float = REST

    def terms(self, x: Float[Tensor, "row d"], which: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """L_r, L_h and L_U of the prompts `which`; L_U in units of what states vary by off the components."""
        rows = list(which)
        moved, y = x.float() - self.before[rows].to(x.device), self.up[rows].to(x.device)
        z = moved @ self.at.axes.T.to(x.device)
        l_r, l_h = (cross_entropy(z @ w.to(x.device), y) for w in (self.at.refusing, self.at.harmless))
        inside = moved @ self.at.directions.T.to(x.device)
        off = (moved.square().sum(1) - inside.square().sum(1)).clamp_min(0) / (x.shape[1] - len(inside.T))
        return l_r, l_h, off.mean() / self.at.rest

    def __call__(self, x, which, head):
        weights = (self.refuse, self.harm, self.rest)
        return sum(w * term for w, term in zip(weights, self.terms(x[:, -1], which), strict=True) if w)


def along(loss: Dro, seed: int) -> Dro:
    """The same loss with a random direction of the standardised components in place of both regressions'."""
    drawn = torch.randn(len(loss.at.refusing), generator=torch.Generator().manual_seed(seed))
    w = drawn / drawn.norm() * loss.at.refusing.norm()
    return replace(loss, at=replace(loss.at, refusing=w, harmless=w))


def swapped(loss: Dro) -> Dro:
    """The same loss with the two classes swapped."""
    return replace(loss, up=1 - loss.up)


@dataclass(frozen=True, eq=False)
class FirstToken:
    """The trivial objective: the log-odds that the first token is one of `tokens` rise for harmful prompts
    and fall for harmless ones, against `before` [prompt].
    """

    tokens: tuple[int, ...]
    before: Float[Tensor, "prompt"]
    up: Float[Tensor, "prompt"]

    def __call__(self, x, which, head):
        rows = list(which)
        log_p = head(x[:, -1]).float().log_softmax(-1)[:, list(self.tokens)].logsumexp(-1)
        score = log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
        return cross_entropy(score - self.before[rows].to(x.device), 1 - self.up[rows].to(x.device))


@dataclass(frozen=True, eq=False)
class Tuning:
    """Prompt tuning: likelihood of good answers and unlikelihood of bad ones, by token. `answers` are their
    tokens, `good` says which are.
    """

    answers: tuple[tuple[int, ...], ...]
    good: tuple[bool, ...]

    def __call__(self, x, which, head):
        log_p, losses = head(x[:, :-1]).float().log_softmax(-1), []
        for row, i in enumerate(which):
            said = torch.tensor(self.answers[i], device=x.device)
            at = log_p[row, -len(said) :].gather(-1, said[:, None])[:, 0]
            losses.append(-(at if self.good[i] else torch.log1p(-at.exp().clamp(max=1 - 1e-6))).mean())
        return torch.stack(losses).mean()


def falls(losses: Sequence[float]) -> float:
    """By how much the loss falls: the mean of the first quarter of the steps minus that of the last."""
    part = max(1, len(losses) // 4)
    return float(np.mean(losses[:part]) - np.mean(losses[-part:]))


def explained(label: np.ndarray, group: np.ndarray) -> float:
    """The share of a label's variance that the class explains."""
    return float(np.corrcoef(np.asarray(label, float), np.asarray(group, float))[0, 1] ** 2)


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve of scores of rows."""
    return stats.area(scores[positive], scores[~positive])
