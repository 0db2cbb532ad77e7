"""What a model with tokens says of requests: how likely each token is before the answer, and the judged
answer after any of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from refusal import data
from refusal.findings.f06.examples import RECIPE, TOKENS
from refusal.measure.judge import BROKEN
from refusal.measure.noncompliance import NONCOMPLIANT, judge_noncompliance
from refusal.measure.readouts import keyed
from refusal.model.loading import Model
from refusal.trace.batches import micro_batches
from refusal.trace.decode import CONTROL, Decoding, generate
from refusal.trace.edits import rows_of
from refusal.trace.last import before_last, score_last
from refusal.trace.prefix import Prefix
from refusal.trace.prompts import Prompt, chat, with_first_tokens
from refusal.train.tokens import ids_of

KINDS = ("refuse", "contrast", "ordinary")
RESPOND = len(TOKENS) - 1  # the answering token's place among them
FORCED = ("refuse", "second", "respond")


@dataclass(frozen=True)
class Requests:
    """Requests in a model's template, with the category and the kind of each [prompt]."""

    prompts: list[Prompt]
    category: np.ndarray
    kind: np.ndarray

    def where(self, category: str | None = None, kind: str | None = None) -> np.ndarray:
        """A mask of the requests of a category and a kind, of all where None."""
        return ((self.category == category) | (category is None)) & ((self.kind == kind) | (kind is None))


def requests(
    model: Model,
    role: str,
    n: int | Mapping[tuple[str, str], int] | None,
    n_ordinary: int | None,
    seed: int,
    tier: str,
) -> Requests:
    """`n` requests to refuse and as many contrast ones in each category, or so many of each category and
    kind, and ordinary harmless ones.
    """
    of = lambda key: n[key] if isinstance(n, Mapping) else n
    tables = {
        (c, kind): data.noncompliance(role, c, kind, of((c, kind)), seed=seed, tier=tier)
        for c in data.CATEGORIES
        for kind in KINDS[:2]
    }
    tables["ordinary", "ordinary"] = data.prompts(role, source="harmless", n=n_ordinary, seed=seed, tier=tier)
    prompts = {key: chat(model, table) for key, table in tables.items()}
    names = [key for key, some in prompts.items() for _ in some]
    return Requests([p for some in prompts.values() for p in some], *np.array(names).T)


def in_template(model: Model, asked: Requests) -> Requests:
    """The same requests in the template of another model."""
    table = pd.DataFrame(
        [{"id": p.id, "text": p.text, "source": p.source, "label": p.label} for p in asked.prompts]
    )
    return Requests(chat(model, table), asked.category, asked.kind)


def chosen(asked: Requests, which: np.ndarray) -> Requests:
    """The requests of a mask."""
    return Requests(
        [p for p, on in zip(asked.prompts, which, strict=True) if on],
        asked.category[which],
        asked.kind[which],
    )


def lacks_tokens(model: Model) -> str | None:
    """Why a model has no dial, or None."""
    missing = [t for t in TOKENS if t not in model.tokenizer.get_added_vocab()]
    if not missing:
        return None
    return f"the model has no token {missing[0]}; {RECIPE} is trained to say it"


def log_probabilities(
    model: Model, prompts: Sequence[Prompt], prefix: Prefix | None = None
) -> Float[np.ndarray, "prompt token"]:
    """Of each of `TOKENS` before the answer, over the whole vocabulary; `prefix` holds what stands before the
    prompts' last tokens, as below.
    """
    ids = ids_of(model.tokenizer, TOKENS)

    @keyed(f"log-probabilities of {ids}")
    def readout(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1)[:, ids]

    return score_last(model, rows_of(prompts), readout, prefix).double().numpy()


def outcomes_after(
    model: Model,
    prompts: Sequence[Prompt],
    first: Sequence[Sequence[int]],
    max_new_tokens: int,
    prefix: Prefix | None = None,
) -> list[str]:
    """The judged answer to each prompt, begun with the tokens `first` of its own, which are not judged
    where they are control tokens.
    """
    begun = [with_first_tokens(p, ids) if len(ids) else p for p, ids in zip(prompts, first, strict=True)]
    texts = generate(model, begun, decoding=max_new_tokens, prefix=prefix, label="answers")[0]
    return [judge_noncompliance(text.lstrip(CONTROL)) for text in texts]


def begun_with(
    model: Model, prompts: Sequence[Prompt], openings: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[str]]:
    """The judged answers of all prompts begun with each of these tokens, [opening][prompt], from one reading
    of the prompts, as many at a time as can be kept.
    """
    found = np.empty((len(openings), len(prompts)), object)
    for group in micro_batches(model, [len(p.ids) for p in prompts], max_new_tokens):
        some = [prompts[i] for i in group]
        prefix = before_last(model, some)
        for k, first in enumerate(openings):
            found[k, group] = outcomes_after(model, some, [first] * len(some), max_new_tokens, prefix)
    return found.tolist()


def forced(
    model: Model,
    prompts: Sequence[Prompt],
    which: np.ndarray,
    max_new_tokens: int,
    prefix: Prefix | None = None,
) -> list[str]:
    """The judged answer after the token of number `which` of each prompt is forced."""
    ids = ids_of(model.tokenizer, TOKENS)
    return outcomes_after(model, prompts, [[ids[k]] for k in which], max_new_tokens, prefix)


def natural(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int, prefix: Prefix | None = None
) -> tuple[np.ndarray, list[str]]:
    """What the model says by itself: the number of the token that its answer begins with (−1 for none), and
    the judged rest.
    """
    how = Decoding(max_new_tokens, keep_special=True)
    texts = generate(model, prompts, decoding=how, prefix=prefix, label="answers")[0]
    emitted, rest = [], []
    for text in texts:
        k = next((k for k, token in enumerate(TOKENS) if text.startswith(token)), -1)
        emitted.append(k)
        rest.append(judge_noncompliance(text.removeprefix(TOKENS[k]) if k >= 0 else text))
    return np.array(emitted), rest


def noncompliant(outcomes: Sequence[str]) -> np.ndarray:
    """Whether each request is not complied with."""
    return np.isin(outcomes, NONCOMPLIANT)


def broken(outcomes: Sequence[str]) -> np.ndarray:
    """Whether each answer is broken."""
    return np.isin(outcomes, BROKEN)


@dataclass(frozen=True)
class Said:
    """All that is asked of a model with tokens, on the same requests: log-probabilities [prompt, token],
    the emitted token and the outcome by itself, and the outcomes after its likeliest refusing token, after
    the answering one, and after the second likeliest, which a suppressed category may leave, {name:
    outcomes}.
    """

    log_p: np.ndarray
    emitted: np.ndarray
    natural: list[str]
    after: Mapping[str, list[str]]

    @property
    def places(self) -> dict[str, np.ndarray]:
        """The number of the token that was forced on each request, by the name of what was forced."""
        places = forced_tokens(self.log_p)
        return {name: places[name] for name in self.after}


def forced_tokens(log_p: Float[np.ndarray, "prompt token"]) -> dict[str, np.ndarray]:
    """Of each request the numbers of its likeliest and second likeliest refusing token and of the answering
    one.
    """
    order = np.argsort(-log_p[:, :-1], axis=1, kind="stable")
    return {"refuse": order[:, 0], "second": order[:, 1], "respond": np.full(len(log_p), RESPOND)}


def everything(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int, names: Sequence[str] = FORCED
) -> Said:
    """Log-probabilities, the model's own answers, and those after the tokens of these names, by default its
    likeliest and second likeliest refusing token and the answering one. All go on from one reading of the
    prompts, as many at a time as can be kept.
    """
    log_p = np.empty((len(prompts), len(TOKENS)))
    emitted, own = np.empty(len(prompts), int), np.empty(len(prompts), object)
    after = {name: np.empty(len(prompts), object) for name in names}
    for group in micro_batches(model, [len(p.ids) for p in prompts], max_new_tokens):
        some = [prompts[i] for i in group]
        prefix = before_last(model, some)
        log_p[group] = log_probabilities(model, some, prefix)
        emitted[group], own[group] = natural(model, some, max_new_tokens, prefix)
        places = forced_tokens(log_p[group])
        for name in names:
            after[name][group] = forced(model, some, places[name], max_new_tokens, prefix)
    return Said(log_p, emitted, list(own), {name: list(outcomes) for name, outcomes in after.items()})


def after_tokens(said: Said, which: np.ndarray) -> np.ndarray:
    """Whether each request is refused when its answer begins with the token of number `which`. Raises
    ValueError for a token that is none of those that were forced.
    """
    found = np.full(len(which), -1)
    for name, places in said.places.items():
        found = np.where(which == places, noncompliant(said.after[name]), found)
    if (found < 0).any():
        raise ValueError("a token that was not forced")
    return found.astype(bool)
