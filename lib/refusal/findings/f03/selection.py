"""Cliff-as-a-Judge: fine-tuning on refusals after thinking that a selection chose, from held thoughts."""

import itertools
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from refusal.measure.judge import judge
from refusal.model import loading
from refusal.trace import cache, reads
from refusal.trace.decode import generate
from refusal.trace.prefix import Prefix
from refusal.trace.thinking import Rollout
from refusal.train.fit import adapted, steps
from refusal.train.refusals import REFUSALS


def select(cliffs: ArrayLike, finals: ArrayLike, n: int, how: str, seed: int = 0) -> list[int]:
    """Which `n` prompts to train on (Cliff-as-a-Judge): the largest ``cliff``, the lowest ``final`` score,
    ``random``, or ``all``.
    """
    if how == "all":
        return list(range(np.size(cliffs)))
    if how == "random":
        return sorted(np.random.default_rng(seed).choice(np.size(cliffs), n, replace=False).tolist())
    value = -np.asarray(cliffs) if how == "cliff" else np.asarray(finals)
    return sorted(np.argsort(value, kind="stable")[:n].tolist())


def retrained(
    model: loading.Model,
    chosen: Sequence[Rollout],
    anchors: Sequence[tuple[Rollout, str]],
    harmful: Sequence[Rollout],
    benign: Sequence[Rollout],
    prefix: Prefix,
    seed: int,
    max_new_tokens: int = 12,
    neutral: Sequence[str] = (),
) -> dict[str, list]:
    """After fine-tuning a copy of a model: judged outcomes {harmful, harmless} → [rollout], and the
    cross-entropy of `neutral` texts → [text]. Cached; the copy is never saved.

    Trained on refusals after the thinking of `chosen`, and as often on the given answers after that of benign
    `anchors`, so that it does not learn to refuse everything. All thinking stays as it was, and as it was
    read: `prefix` holds it (`hold_thoughts`), and the adapters act from the closing tag on, in neutral texts
    on every token.
    """
    name = cache.key(
        model,
        _retrained,
        chosen=chosen,
        anchors=anchors,
        harmful=harmful,
        benign=benign,
        seed=seed,
        max_new_tokens=max_new_tokens,
        neutral=neutral,
        sequences=sorted(prefix.sequences),
    )
    said = cache.remember_json(
        name,
        lambda: _retrained(
            model, chosen, anchors, [*harmful, *benign], prefix, seed, max_new_tokens, neutral
        ),
    )
    outcome = [judge(text) for text in said["texts"]]  # not cached: the judge may change
    return {
        "harmful": outcome[: len(harmful)],
        "harmless": outcome[len(harmful) :],
        "neutral": said["neutral"],
    }


# of fine-tuning in Cliff-as-a-Judge, the same for every selection: chosen on random selections of other seeds
# and prompts of another role than the test
STEPS, RATE, ADAPTED = 4, 2e-3, ["q_proj", "v_proj"]


def _retrained(
    model: loading.Model, chosen, anchors, tried, prefix, seed, max_new_tokens, neutral
) -> dict[str, list]:
    copied = adapted(model.module, seed, ADAPTED)
    rng = random.Random(seed)
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    known = model.tokenizer.get_vocab()
    # the planted tiny model has a vocabulary of its own
    texts = ["Sorry I cannot help"] if "<user>" in known else REFUSALS
    examples = [
        (list(r.prompt.ids), [*encode(rng.choice(texts)), model.tokenizer.eos_token_id]) for r in chosen
    ]
    examples += [
        (list(r.prompt.ids), encode(text))
        for r, text in itertools.islice(itertools.cycle(anchors), len(chosen))
    ]
    steps(
        copied,
        examples,
        STEPS,
        RATE,
        seed,
        together=8,
        prefix=prefix,
        label=f"fine-tuning on {len(chosen)} prompts",
    )
    tuned = replace(
        loading.wrap(copied, model.tokenizer, name=model.name, batch_tokens=model.batch_tokens),
        revision=uuid.uuid4().hex,
    )
    said = generate(
        tuned, [r.prompt for r in tried], decoding=max_new_tokens, prefix=prefix, label="answering"
    )[0]
    return {"texts": said, "neutral": reads.read_text(tuned, neutral)["loss"].tolist() if neutral else []}
