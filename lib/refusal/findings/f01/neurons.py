"""Entropy neurons: last-block MLP neurons that scale confidence without moving the answer (arXiv 2504.02904,
section 6; 2406.16254).

Such a neuron has a large output weight that hardly changes any logit against another: it writes where the
vocabulary matrix reads little, and acts through the final norm. Weights are read and, for the two
interventions, changed in place and put back.
"""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.base.errors import UserError
from refusal.base.estimate import Estimate
from refusal.findings.f01.pairs import moved_by
from refusal.measure import stats
from refusal.model import weights
from refusal.model.loading import Model
from refusal.trace.edits import Add
from refusal.trace.prompts import plain
from refusal.trace.reads import collect, read_text


def output_weights(model: Model) -> Float[Tensor, "neuron d_model"]:
    """What each neuron of the last block's MLP writes, float32. Raises UserError for a remote model, whose
    weights are not here, for a mixture of experts, and where a norm follows the MLP.
    """
    return weights.rows(weights.last_projection(model)).detach().float().cpu()


def unreadable(*models) -> str | None:
    """Why what the last neurons of these models write can't be read, as a sentence; None where it can."""
    try:
        for model in models:
            output_weights(model)
    except UserError as error:
        return error.what
    return None


def unembedding(model: Model) -> Float[Tensor, "vocabulary d_model"]:
    """The vocabulary matrix as the residual stream meets it: the final norm's scale folded in, the mean over
    the vocabulary removed; float32.
    """
    weight = model.module.get_output_embeddings().weight.detach().float().cpu() * _scale(
        weights.final_norm(model), model.d_model
    )
    return weight.sub_(weight.mean(0))


def _scale(norm: torch.nn.Module, d_model: int) -> Float[Tensor, "d_model"]:
    """What a norm multiplies its coordinates by, seen on ±1, which it leaves as it is otherwise: some store
    the scale, Gemma the scale minus one, OLMo none; a bias goes out.
    """
    norm, x = copy.deepcopy(norm).float().cpu(), torch.ones(1, 1, d_model)
    x[..., 1::2] = -1
    with torch.no_grad():
        return ((norm(x) - norm(-x)) / 2 * x)[0, 0]


def logit_variance(
    w: Float[Tensor, "neuron d_model"], unembed: Float[Tensor, "vocabulary d_model"]
) -> Float[Tensor, "neuron"]:
    """Variance over the vocabulary of cos(w, unembed[v]) (arXiv 2504.02904, eq. 7), the vocabulary taken a
    few thousand rows at a time.
    """
    unit = w / w.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    total, squares = torch.zeros(len(w), dtype=torch.float64), torch.zeros(len(w), dtype=torch.float64)
    for rows in unembed.split(8192):
        cosines = (rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)) @ unit.T
        total += cosines.double().sum(0)
        squares += cosines.double().square().sum(0)
    return (squares / len(unembed) - (total / len(unembed)).square()).float()


def largest(w: Float[Tensor, "neuron d_model"], n: int = 10, top_share: float = 0.25) -> Tensor:
    """The `top_share` of neurons with the largest output weights, largest first, at least `n`: among these
    entropy neurons are chosen and random sets drawn.
    """
    return w.norm(dim=-1).argsort(descending=True)[: max(n, round(top_share * len(w)))]


def entropy_neurons(w: Tensor, variance: Tensor, n: int = 10, top_share: float = 0.25) -> list[int]:
    """The `n` neurons of lowest logit variance among the `top_share` with the largest output weights."""
    large = largest(w, n, top_share)
    return sorted(large[variance[large].argsort()[:n]].tolist())


def overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union."""
    return len(set(a) & set(b)) / len(set(a) | set(b))


def overlap_by_chance(n: int, among: int, draws: int = 2000, seed: int = 0) -> list[float]:
    """Overlaps of two random sets of `n` out of `among` neurons."""
    rng = np.random.default_rng(seed)
    return [overlap(*(rng.choice(among, n, replace=False).tolist() for _ in range(2))) for _ in range(draws)]


def null_space_share(
    w: Float[Tensor, "neuron d_model"], unembed: Float[Tensor, "vocabulary d_model"], share: float = 0.01
) -> Float[Tensor, "neuron"]:
    """ρ: the share of each output weight's norm in the lowest `share` of the vocabulary matrix's singular
    directions (arXiv 2406.16254).
    """
    # ascending eigenvalues, so the first columns are read least
    _, vectors = torch.linalg.eigh((unembed.T @ unembed).double())
    low = vectors[:, : max(1, round(share * unembed.shape[1]))].float()
    return (w @ low).norm(dim=-1) / w.norm(dim=-1).clamp_min(1e-12)


@contextlib.contextmanager
def _changed_rows(model: Model, neurons: Sequence[int], change, how: str):
    """Within the block `change(rows)` has replaced what `neurons` write; put back at the end, also after an
    error.

    Yields the changed model under a revision of its own, so that no cached result of one is taken for the
    other's.
    """
    rows = weights.rows(weights.last_projection(model))
    index = torch.tensor(list(neurons), device=rows.device)
    saved = rows[index].clone()
    try:
        with torch.no_grad():
            rows[index] = change(saved)
        yield replace(model, revision=f"{model.revision} {how} {list(neurons)}")
    finally:
        with torch.no_grad():
            rows[index] = saved


def silenced(model: Model, neurons: Sequence[int]):
    """Context in which `neurons` of the last block write nothing."""
    return _changed_rows(model, neurons, torch.zeros_like, "without neurons")


def swapped(model: Model, other: Model, neurons: Sequence[int]):
    """Context in which `neurons` write with the output weights that they have in `other`, a model of equal
    shape.
    """
    theirs = weights.rows(weights.last_projection(other))[list(neurons)].detach()
    return _changed_rows(model, neurons, lambda rows: theirs.to(rows), f"with neurons of {other.revision}")


def overlap_interval(
    w: dict[str, Tensor], variance: dict[str, Tensor], seed: int = 0, draws: int = 500
) -> list[float]:
    """95 % interval of the overlap of two models' entropy neurons, the MLP's neurons drawn anew (the same
    ones in both models); it holds Wilson's, since draws of neurons that never overlap have no width.
    """
    rng = np.random.default_rng(seed)
    a, b = w
    seen = []
    for _ in range(draws):
        pick = torch.from_numpy(np.unique(rng.integers(0, len(w[a]), len(w[a]))))
        seen.append(overlap(*(entropy_neurons(w[m][pick], variance[m][pick]) for m in (a, b))))
    base, post = (set(entropy_neurons(w[m], variance[m])) for m in (a, b))
    wilson = stats.rate([neuron in base & post for neuron in base | post]).ci95
    low, high = np.percentile(seen, [2.5, 97.5])
    return [min(float(low), wilson[0]), max(float(high), wilson[1])]


def gap_closed(
    base: Model,
    post: Model,
    chosen: Sequence[int],
    texts: Sequence[str],
    entropy: dict[str, np.ndarray],
    how: str,
) -> np.ndarray:
    """By how much the entropy gap post − base shrinks on each text when the neurons `chosen` are ``swapped``
    (base gets post's output weights) or ``mean-ablated`` in both models: [text], nats per token. `entropy`
    holds both models' entropies, unchanged.
    """
    if how == "swapped":
        with swapped(base, post, chosen) as changed:
            return read_text(changed, texts)["entropy"].numpy() - entropy["base"]
    after = {name: _mean_ablated(model, chosen, texts) for name, model in (("base", base), ("post", post))}
    return (entropy["post"] - entropy["base"]) - (after["post"] - after["base"])


def _mean_ablated(model: Model, chosen: Sequence[int], texts: Sequence[str]) -> np.ndarray:
    """Entropy on each text with what `chosen` write replaced by its mean: the last block's output without
    them, plus the mean difference.
    """
    prompts, top = plain(model, texts), [model.n_layers]
    shortest = min(len(p.ids) for p in prompts)
    at = list(range(-shortest + 1, 0, 2))
    whole = collect(model, prompts, at=at, layers=top)["resid"][:, 0]  # [text, position, d_model]
    with silenced(model, chosen) as changed:
        mean = (
            (whole - collect(changed, prompts, at=at, layers=top)["resid"][:, 0])
            .double()
            .mean((0, 1))
            .float()
        )
        return read_text(changed, texts, [Add(mean, model.n_layers, "every_token")])["entropy"].numpy()


def random_sets(w: Float[Tensor, "neuron d_model"], n: int, sets: int, seed: int = 0) -> list[list[int]]:
    """`sets` random sets of `n` out of the neurons with large output weights, the control for what entropy
    neurons do: sets out of all neurons would write less and seem to matter less for that alone.
    """
    rng, among = np.random.default_rng(seed), largest(w, n).cpu().numpy()
    return [sorted(rng.choice(among, n, replace=False).tolist()) for _ in range(sets)]


def share_closed(closed: np.ndarray, entropy: dict[str, np.ndarray], seed: int = 0) -> Estimate:
    """The share of the entropy gap post − base that goes, from `gap_closed` on the same texts, [text]."""
    gap = (entropy["post"] - entropy["base"])[: len(closed)]
    return stats.bootstrap(lambda x, g: x.mean() / g.mean(), closed, gap, seed=seed, paired=True)


# What each claim about confidence is judged by: (measured, controls).


def shared(
    w: dict[str, Tensor],
    variance: dict[str, Tensor],
    rho: dict[str, Tensor],
    change: float | None,
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """The overlap of two models' entropy neurons; ρ of the chosen ones and of all. By chance: two random sets
    of as many out of the neurons with large output weights, which entropy neurons are chosen from.
    """
    chosen = {name: entropy_neurons(w[name], variance[name]) for name in w}
    base, post = chosen.values()
    by_chance = overlap_by_chance(len(post), len(largest(w["post"])), seed=seed)
    controls = {
        "same_model": overlap(base, base),
        **moved_by(change),
        "chance_high": float(np.percentile(by_chance, 97.5)),
        "rho": float(rho["post"][post].mean()),
        "rho_all_neurons": float(rho["post"].mean()),
    }
    found = Estimate(overlap(base, post), overlap_interval(w, variance, seed), len(w["post"]))
    return found, controls


def explained(
    closed: np.ndarray,
    random: Sequence[np.ndarray],
    entropy: dict[str, np.ndarray],
    change: float | None,
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """The share of the entropy gap that goes with the entropy neurons, [text], and with random sets of as
    many, [set][text].
    """
    each = [share_closed(np.asarray(r), entropy, seed).value for r in random]
    controls = {
        **moved_by(change),
        "random_neurons_mean": float(np.mean(each)) if each else None,
        "random_neurons_largest": max(each, key=abs, default=None),
        "random_sets": len(each),
        "entropy_gap": float((entropy["post"] - entropy["base"]).mean()),
    }
    return share_closed(closed, entropy, seed), controls


def no_gap(entropy: dict[str, np.ndarray], seed: int = 0) -> str | None:
    """Why there is no change in confidence to explain, or None."""
    found = stats.difference(entropy["post"], entropy["base"], seed, paired=True)
    low, high = found.ci95
    return (
        f"no change in confidence was shown: entropy differs by {found.value:.3f} "
        f"[{low:.3f}, {high:.3f}] nats"
        if low <= 0 <= high
        else None
    )
