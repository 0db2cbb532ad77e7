"""Arms of notebook 05: prompts under a system prompt, or under a soft one, read, answered and sampled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.findings.f05 import dro
from refusal.measure.deflection import judged
from refusal.measure.judge import BROKEN
from refusal.measure.seen import Seen, joined
from refusal.model.loading import Model
from refusal.model.weights import vocabulary_head
from refusal.trace import reads
from refusal.trace.decode import Decoding, generate
from refusal.trace.edits import Edit, Row
from refusal.trace.prompts import Prompt, chat, with_first_tokens
from refusal.train import soft_prompt

TEMPERATURE, TOP_P = 1.0, 0.9  # as in the paper
LONG = 0.8  # share of a prompt's samples that the paper's choice of the longest keeps
ASKED = "Write a short paragraph about something you like"


@dataclass(frozen=True)
class Sampled:
    """What several answers to each prompt are: `kinds` [prompt, sample] of
    `refusal.measure.deflection.KINDS`, and how many words they have.
    """

    kinds: np.ndarray
    words: np.ndarray

    @property
    def complied(self) -> np.ndarray:
        """[prompt, sample]"""
        return self.kinds == "answer"

    @property
    def share(self) -> np.ndarray:
        """The share of samples that comply [prompt]."""
        return self.complied.mean(1)

    @property
    def any(self) -> np.ndarray:
        """Whether any of them does [prompt]."""
        return np.logical_or.reduce(self.complied, 1)

    @property
    def long_only(self) -> np.ndarray:
        """The share among the longest of each prompt's samples [prompt]."""
        keep = max(1, round(LONG * self.kinds.shape[1]))
        order = np.argsort(-self.words, axis=1, kind="stable")[:, :keep]
        return np.take_along_axis(self.complied, order, 1).mean(1)


def rows(prompts: Sequence[Prompt], edits: Sequence[Edit] = ()) -> list[Row]:
    """Every prompt under the same edits."""
    return [Row(p, tuple(edits)) for p in prompts]


def sampled(model: Model, which: Sequence[Row], k: int, max_new_tokens: int, seed: int) -> Sampled:
    """`k` answers of each row, judged."""
    decoding = Decoding(max_new_tokens, samples=k, temperature=TEMPERATURE, top_p=TOP_P, seed=seed)
    said = generate(model, which, decoding=decoding, label=f"{k} answers each")
    said = [[one] if isinstance(one, str) else one for one in said]
    kinds = np.array([[judged(text) for text in texts] for texts in said])
    return Sampled(kinds, np.array([[len(text.split()) for text in texts] for texts in said]))


def answered(model: Model, which: Sequence[Row], max_new_tokens: int) -> np.ndarray:
    """What the greedy answer of each row is [row]."""
    return kinds(generate(model, which, decoding=max_new_tokens))


def kinds(texts: Sequence[str]) -> np.ndarray:
    """What each answer is [text]."""
    return np.array([judged(text) for text in texts])


def states(
    model: Model, prompts: Sequence[Prompt | Row], layers: Sequence[int] | None = None
) -> Float[Tensor, "prompt layer d"]:
    """States at t_post, of every layer or of some."""
    return reads.collect(model, prompts, at=["t_post"], layers=layers)["resid"][:, :, 0]


def final(model: Model, found: Float[Tensor, "prompt layer d"]) -> Float[Tensor, "prompt d"]:
    """What the paper reads: the output of the final norm. A remote run has no weights here, and reads what
    goes into it.
    """
    return found[:, -1] if model.remote else soft_prompt.normed(model, found[:, -1])


def scores(model: Model, prompts: Sequence[Prompt | Row], x: Tensor, readout: Callable) -> np.ndarray:
    """A readout of the first token [prompt], from outputs of the final norm that are already read."""
    if model.remote:
        return reads.score(model, prompts, readout).reshape(-1).numpy()
    with torch.no_grad():
        logits = vocabulary_head(model)(x.to(model.device, model.dtype)).float()
    return readout(logits).cpu().numpy()


def fitted(seen: Mapping[str, Seen], x: Mapping[str, Tensor]) -> tuple[Seen, Tensor, np.ndarray]:
    """Of prompts under several system prompts those that were answered or refused: as one, their states, and
    which prompt each is [row].
    """
    told = {name: np.isin(s.outcome, ("refusal", "answer")) for name, s in seen.items()}
    together = joined([s.where(told[name]) for name, s in seen.items()])
    return (
        together,
        torch.cat([x[name][torch.from_numpy(told[name])] for name in seen]),
        np.array([p.id for p in together.prompts]),
    )


def harmless(seen: Seen | Sequence[Prompt]) -> np.ndarray:
    """Which prompts are harmless [prompt]."""
    prompts = seen.prompts if isinstance(seen, Seen) else seen
    return np.array([p.label == "harmless" for p in prompts])


def short_ones(table: pd.DataFrame, n: int, most_words: int) -> pd.DataFrame:
    """The first `n` prompts of each label that have no more than so many words; longer ones where too few
    have.
    """
    parts = []
    for _, part in table.groupby("label", sort=True):
        words = part.text.str.split().str.len()
        parts.append(part.loc[words.where(words > most_words, 0).sort_values(kind="stable").index[:n]])
    return pd.concat(parts, ignore_index=True)


def steps(n: int, size: int, up: np.ndarray, seed: int) -> list[list[int]]:
    """`n` batches of `size` prompts' numbers, half of each class, in seeded passes over them."""
    rng, out = np.random.default_rng(seed), []
    queues: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(n):
        batch = []
        for kind, queue in queues.items():
            while len(queue) < size // 2:
                queue += rng.permutation(np.flatnonzero(up == kind)).tolist()
            batch += [queue.pop(0) for _ in range(size // 2)]
        out.append(batch)
    return out


def tuning(
    model: Model, prompts: Sequence[Prompt], said: Mapping[str, Sequence[tuple[str, str]]], n_tokens: int
) -> tuple[list[Prompt], dro.Tuning, np.ndarray]:
    """What prompt tuning learns from: each prompt with its answers under several system prompts, `said`
    {prompt's id: (outcome, answer)}, good where harmful ones are refused and harmless ones answered. Returns
    the prompts with an answer each, the objective and whose prompt it is harmless.
    """
    found, answers, good = [], [], []
    for p in prompts:
        for outcome, text in dict.fromkeys(said[p.id]):
            ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"][:n_tokens])
            if outcome in ("refusal", "answer") and ids:
                found.append(with_first_tokens(p, ids))
                answers.append(ids)
                good.append((outcome == "refusal") == (p.label == "harmful"))
    return found, dro.Tuning(tuple(answers), tuple(good)), harmless(found)


def ordinary(model: Model, system: str, paragraphs: Sequence[str], edits: Sequence[Edit] = ()) -> np.ndarray:
    """Cross-entropy of neutral paragraphs as answers to one request, in nats per token [paragraph]."""
    (asked,) = chat(model, [ASKED], system=system)
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in paragraphs]
    return reads.read_given(model, rows([with_first_tokens(asked, i) for i in ids], edits)).numpy()


def broken(kinds: np.ndarray) -> np.ndarray:
    """Which answers are broken or empty."""
    return np.isin(kinds, BROKEN)
