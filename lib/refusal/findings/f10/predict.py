"""Will this model refuse a prompt? Readers of its text and of the model's states before the first word, all
taught on the same prompts (arXiv 2306.03423, section 5; the readers of states are ours).

A reader is taught on refused against answered prompts; what is disclaimed, degenerate or empty teaches and
tests nothing, and is counted. Readers are chosen on validation prompts, layers by folds of the training ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor

from refusal.findings.f10 import recognise
from refusal.measure import stats
from refusal.measure.probes import fit_prober
from refusal.measure.seen import POSITIONS, Seen
from refusal.measure.text_baselines import form, sentence_embeddings

FORM, TFIDF, EMBEDDINGS = "form", "TF-IDF", "sentence embeddings"
TEXT = (TFIDF, EMBEDDINGS)  # readers of what a text says, of which the better is chosen
FOLDS, SHUFFLES = 5, 5
LEAST, MOST = 0.05, 0.95  # a share refused of a group outside of which nothing can be foretold


def group(seen: Seen) -> np.ndarray:
    """Harmful, harmless or pseudo-harmful, by prompt."""
    return np.array(["pseudo-harmful" if p.source == "pseudo_harmful" else p.label for p in seen.prompts])


def remembered(embed: Callable[[Sequence[str]], np.ndarray]) -> Callable[[Sequence[str]], np.ndarray]:
    """`embed`, which reads each text once, however often it is asked for."""
    kept: dict[str, np.ndarray] = {}

    def rows(texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        kept.update(zip(new, embed(new), strict=True) if new else ())
        return np.stack([kept[text] for text in texts])

    return rows


Reader = Callable[[Seen], np.ndarray]  # scores [prompt], the higher the likelier a refusal


def text_readers(
    train: Seen, embed: Callable[[Sequence[str]], np.ndarray] | None = sentence_embeddings
) -> dict[str, Reader]:
    """`FORM` and the readers of `TEXT`, taught on `train`: {name: reader}. `embed` gives [text, d]; without
    it there are no embeddings.
    """
    pipelines = {
        FORM: make_pipeline(FunctionTransformer(form), StandardScaler(), _logistic(1.0)),
        TFIDF: recognise.lr(train.texts, train.refused),
    }
    if embed:
        pipelines[EMBEDDINGS] = make_pipeline(FunctionTransformer(embed), _logistic(10.0))
    for name, pipeline in pipelines.items():
        if name != TFIDF:  # which is fitted
            pipeline.fit(train.texts, train.refused)
    return {
        name: lambda seen, p=pipeline: p.decision_function(seen.texts) for name, pipeline in pipelines.items()
    }


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)


def best_text_reader(readers: Mapping[str, Reader], validation: Seen) -> str:
    """The reader of `TEXT` that ranks validation prompts best."""

    def area(name: str) -> float:
        scores = readers[name](validation)
        return stats.area(scores[validation.refused], scores[~validation.refused])

    return max((name for name in TEXT if name in readers), key=area)


def cross_validated(
    states: Float[Tensor, "prompt layer d"], refused: np.ndarray
) -> Float[np.ndarray, "layer"]:
    """AUROC of each layer's prober over held-out fifths of its own prompts."""
    fold = np.empty(len(refused), int)  # both classes in each
    for kind in (True, False):
        fold[refused == kind] = np.arange((refused == kind).sum()) % FOLDS
    scores = np.empty(tuple(states.shape[:2]))
    for k in range(FOLDS):
        prober = fit_prober(states[fold != k], refused[fold != k])
        scores[fold == k] = prober.of(states[fold == k]).numpy()
    return np.array([stats.area(x[refused], x[~refused]) for x in scores.T])


@dataclass(frozen=True)
class Inside:
    """A reader of states at one position: the layer that it reads, the AUROC of each layer by which that was
    chosen [layer], and the reader.
    """

    layer: int
    by_layer: np.ndarray
    reader: Reader


def inside(train: Seen, position: str) -> Inside:
    """A prober at one of `POSITIONS`, its layer chosen by folds of the training prompts; layer 0 knows only
    the token, and is left out.
    """
    at = POSITIONS.index(position)
    by_layer = cross_validated(train.states[:, :, at], train.refused)
    layer = int(by_layer[1:].argmax()) + 1
    return Inside(layer, by_layer, _at_layer(train, train.refused, at, layer))


def shuffled(train: Seen, position: str, layer: int, seed: int = 0) -> list[Reader]:
    """`SHUFFLES` probers of one layer that were taught shuffled labels."""
    rng, at = np.random.default_rng(seed), POSITIONS.index(position)
    return [_at_layer(train, rng.permutation(train.refused), at, layer) for _ in range(SHUFFLES)]


def _at_layer(train: Seen, refused: np.ndarray, at: int, layer: int) -> Reader:
    fitted = fit_prober(train.states[:, [layer], at], refused)
    return lambda seen: fitted.of(seen.states[:, [layer], at])[:, 0].numpy()


def areas_by_layer(train: Seen, test: Seen, position: str) -> Float[np.ndarray, "layer"]:
    """AUROC of each layer's prober on test prompts: for a figure, nothing is chosen by it."""
    at = POSITIONS.index(position)
    scores = fit_prober(train.states[:, :, at], train.refused).of(test.states[:, :, at]).numpy()
    return np.array([stats.area(x[test.refused], x[~test.refused]) for x in scores.T])


def cannot_foretell(seen: Seen, what: str) -> str | None:
    """Why nothing can be foretold of these prompts, or None. Give it what was `told`."""
    if not seen.prompts:
        return f"no {what} prompt is refused or answered"
    share = float(seen.refused.mean())
    if LEAST <= share <= MOST:
        return None
    needed = f"{LEAST:.0%} to {MOST:.0%} are needed"
    return f"{share:.0%} of {len(seen.prompts)} {what} prompts are refused; {needed}"
