"""Which words of a request a score rests on: by leaving each out, and by gradients at the embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from refusal.base.errors import UserError
from refusal.base.progress import track
from refusal.model.loading import Model
from refusal.trace import cache, reads
from refusal.trace.batches import plan
from refusal.trace.edits import Patch, Row, compile_edits
from refusal.trace.opening import Opening, rest, shared_length
from refusal.trace.passes import forward
from refusal.trace.prompts import Prompt, chat
from refusal.trace.stems import score_stems


@dataclass(frozen=True)
class Gradients:
    """By word of each prompt: the largest norm among its tokens, and gradient times input summed over
    them.
    """

    norm: list[np.ndarray]
    signed: list[np.ndarray]


def words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand: (first character, the one after the last)."""
    found, at = [], 0
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        found.append((start, at))
    return found


def without(text: str, span: tuple[int, int]) -> str:
    """The text without the characters of a word, and without the space that is left over."""
    return " ".join((text[: span[0]] + text[span[1] :]).split())


def occlude(model: Model, texts: Sequence[str], readout: Callable) -> list[np.ndarray]:
    """By how much the score of each text falls where one of its words is left out [text][word]. Raises
    UserError for a text of one word.
    """
    if short := [t for t in texts if len(t.split()) < 2]:
        raise UserError(f"{short[0]!r} has one word", "nothing is left without it")
    spans = [words(t) for t in texts]
    cut = [without(t, span) for t, each in zip(texts, spans, strict=True) for span in each]
    # what comes before the word that is left out is read once for many
    scores = score_stems(model, chat(model, [*texts, *cut]), readout, label="leaving out words").numpy()
    whole, rest_of = scores[: len(texts)], scores[len(texts) :]
    parts = np.split(rest_of, np.cumsum([len(s) for s in spans])[:-1])
    return [s - part for s, part in zip(whole, parts, strict=True)]


def gradients(model: Model, texts: Sequence[str], readout: Callable) -> Gradients:
    """Of the score's gradient at the embeddings of each text's tokens, by word. Cached on disk.

    Raises UserError for a remote run, which gives values back and no gradients.
    """
    if model.remote:
        raise UserError("gradients are not given back by a remote run")
    prompts = chat(model, texts)
    name = cache.key(model, _gradients, prompts=prompts, readout=readout)
    found = cache.remember_tensors(name, lambda: _gradients(model, prompts, readout))
    norm, signed = [], []
    for i, p in enumerate(prompts):
        grad, state = found[f"grad {i}"], found[f"state {i}"]
        which = word_of(model, p)
        spread, line = grad.norm(dim=-1).numpy(), (grad * state).sum(-1).numpy()
        each = range(len(words(p.text)))
        norm.append(np.array([max(spread[which == w], default=0.0) for w in each]))
        signed.append(np.array([line[which == w].sum() for w in each]))
    return Gradients(norm, signed)


def _gradients(model: Model, prompts: Sequence[Prompt], readout: Callable) -> dict[str, torch.Tensor]:
    """{"grad i", "state i": [token, d_model]} of the instruction's tokens of each prompt."""
    at = [[k - len(p.ids) for k in p.span("instruction")] for p in prompts]
    states = [
        reads.collect(model, [p], [where], layers=[0])["resid"][0, 0]
        for p, where in zip(prompts, at, strict=True)
    ]
    found = {}
    for members in track(plan(model, [len(p.ids) for p in prompts]), "gradients"):
        learned = {i: torch.nn.Parameter(states[i].clone()) for i in members}
        rows = [Row(prompts[i], (Patch(learned[i], 0, "instruction"),)) for i in members]
        shared = Opening(model, rows, shared_length(model, rows))
        batch = rest(model, rows, range(len(rows)), shared.n)
        ops = compile_edits(model, rows, batch.ids.shape[1], shared.n)
        cached = shared.cache(range(len(rows)))
        _, logits = forward(model, batch, ops, cache=cached, logits=True, grad=True)
        readout(logits.float()).sum().backward()
        for i in members:
            grad = learned[i].grad
            assert grad is not None, "the readout is in its graph"
            found[f"grad {i}"], found[f"state {i}"] = grad, states[i]
    return found


def word_of(model: Model, prompt: Prompt) -> np.ndarray:
    """Which word of the request each of its tokens belongs to, the one it shares most characters with
    [token].
    """
    ids, spans = list(prompt.ids[prompt.start : prompt.stop]), words(prompt.text)
    ends = [len(model.tokenizer.decode(ids[: k + 1])) for k in range(len(ids))]
    starts = [0, *ends[:-1]]
    shift = len(model.tokenizer.decode(ids)) - len(prompt.text)
    overlap = lambda a, b: [max(0, min(b - shift, e) - max(a - shift, s)) for s, e in spans]
    return np.array([int(np.argmax(overlap(a, b))) for a, b in zip(starts, ends, strict=True)])
