"""Readers of harm of notebook 05, of states and of the bare text, and the states that they read."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from refusal.findings.f05 import arms, dro
from refusal.measure import stats
from refusal.measure.seen import Seen
from refusal.measure.text_baselines import embedding_reader, form_reader, tfidf_reader
from refusal.model.loading import Model
from refusal.trace.prompts import Prompt, chat

SHUFFLES = 20


def under_each(
    model: Model, tables: Sequence[pd.DataFrame], texts: Mapping[str, str | None]
) -> tuple[dict[str, list[Prompt]], dict[str, Float[Tensor, "prompt d"]]]:
    """The prompts of some tables, one after the other, under each system prompt; and what the paper reads of
    them: ({name: prompts}, {name: states}).
    """
    asked = {name: chat(model, pd.concat(tables, ignore_index=True), system=s) for name, s in texts.items()}
    last = [model.n_layers]
    return asked, {name: arms.final(model, arms.states(model, p, last)) for name, p in asked.items()}


def shuffled_readers(states: Tensor, label: np.ndarray, seed: int) -> list[Callable[[Tensor], np.ndarray]]:
    """Readers taught the same labels in random order."""
    rng = np.random.default_rng(seed)
    return [dro.reader(states, rng.permutation(label)) for _ in range(SHUFFLES)]


def text_scores(
    taught: Sequence[str], label: np.ndarray, texts: Sequence[str], embeddings: bool
) -> dict[str, np.ndarray]:
    """Scores of readers of the bare text, taught on the same prompts: {name: [text]}."""
    by_kind = [
        [t for t, harmful in zip(taught, label, strict=True) if harmful == kind] for kind in (True, False)
    ]
    readers = {"TF-IDF": tfidf_reader(*by_kind), "form": form_reader(*by_kind)}
    if embeddings:  # the encoder is a download of its own
        readers["sentence embeddings"] = embedding_reader(*by_kind)
    return {name: reader(texts) for name, reader in readers.items()}


def by_layer(taught: Seen, tested: Seen) -> list[float | None]:
    """The area under a reader of four components of each layer's states at t_post; None for the first, in
    which all prompts are the same.
    """
    label, harmful = ~arms.harmless(taught), ~arms.harmless(tested)
    areas: list[float | None] = [None]
    for layer in range(1, taught.states.shape[1]):
        scores = dro.reader(taught.states[:, layer, 1], label)(tested.states[:, layer, 1])
        areas.append(stats.area(scores[harmful], scores[~harmful]))
    return areas
