"""The text classifiers of arXiv 2306.03423 as released (classical_model_results.py): TF-IDF of words with a
logistic regression or a random forest.

Beside the published accuracy stands what it lacks: the majority class on the same items, and a source that
the training has not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline

from refusal.base.estimate import Estimate
from refusal.measure import stats

Texts = Sequence[str] | np.ndarray | pd.Series
Make = Callable[[Texts, ArrayLike], Pipeline]  # `lr`, or `forest` with its numbers filled in

N_GRAMS = (1, 3)
TENTHS = 10
FEWEST = 50  # rows of a source that is held out


@dataclass(frozen=True)
class Read:
    """How a classifier read its test items: `refused`, what people say; `said`, what it says; `majority`,
    whether the more frequent class of the test items is refusal (not at a tie); `scores`, higher is refusal
    [item].
    """

    refused: np.ndarray
    said: np.ndarray
    majority: bool
    scores: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each item is read right [item]."""
        return self.said == self.refused

    @property
    def majority_right(self) -> np.ndarray:
        """Whether the majority class is right for each item [item]."""
        return self.refused == self.majority


def split(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the training, validation and test part: the authors' 70/15/15 (data_processing.py), of rows in
    the order of their file, not stratified. Of 1,706 rows 1,194, 256 and 256.
    """
    train, rest = train_test_split(np.arange(n), test_size=0.3, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    return train, validation, test


def lr(texts: Texts, labels: ArrayLike) -> Pipeline:
    """The released logistic regression, fitted; `labels` say what is refused. Raises ValueError where all
    labels are the same.
    """
    return make_pipeline(TfidfVectorizer(ngram_range=N_GRAMS), _regression()).fit(
        list(texts), np.asarray(labels, bool)
    )


def _regression() -> LogisticRegression:
    return LogisticRegression(C=10, max_iter=10_000, solver="liblinear", random_state=0)


def forest(texts: Texts, labels: ArrayLike, trees: int, min_samples_split: int) -> Pipeline:
    """The released random forest, fitted: 300 trees and 5 for answers, 3,000 and 2 for prompts."""
    model = RandomForestClassifier(trees, min_samples_split=min_samples_split, random_state=0)
    return make_pipeline(TfidfVectorizer(ngram_range=N_GRAMS), model).fit(
        list(texts), np.asarray(labels, bool)
    )


def tested(make: Make, texts: Texts, labels: ArrayLike, train: ArrayLike, test: ArrayLike) -> Read:
    """Fit on the rows `train`, read the rows `test`; both are numbers of rows or masks. Raises ValueError
    where all training labels are the same.
    """
    texts, labels = np.asarray(texts, object), np.asarray(labels, bool)
    model = make(texts[np.asarray(train)], labels[np.asarray(train)])
    held, refused = list(texts[np.asarray(test)]), labels[np.asarray(test)]
    if hasattr(
        model, "decision_function"
    ):  # its probabilities are rounded to 1 where its scores still differ
        scores = model.decision_function(held)
    else:
        scores = model.predict_proba(held)[:, 1]
    return Read(refused, model.predict(held), bool(refused.mean() > 0.5), scores)


def held_out(make: Make, texts: Texts, labels: ArrayLike, source: Texts) -> dict[str, Read]:
    """{source: how it is read by a classifier trained on all other sources}, for sources of 50 rows or more.
    Left out where the others hold one class only.
    """
    labels, source = np.asarray(labels, bool), np.asarray(source, object)
    found = {}
    for name in sorted(set(source)):
        here = source == name
        if here.sum() >= FEWEST and len(set(labels[~here])) == 2:
            found[name] = tested(make, texts, labels, ~here, here)
    return found


def measured(read: Read) -> dict[str, Estimate]:
    """{accuracy, majority, above_majority, balanced, auroc} with intervals; those that need a class that is
    missing have value None.

    `above_majority` is right − right by the majority class, paired. Balanced accuracy is the mean of the
    shares read right of both classes, so its interval is that of their difference in what is said.
    """
    gap = stats.difference(read.said[read.refused], read.said[~read.refused])
    balanced = (
        gap if gap.value is None else Estimate((1 + gap.value) / 2, [(1 + x) / 2 for x in gap.ci95], gap.n)
    )
    return {
        "accuracy": stats.rate(read.right),
        "majority": stats.rate(read.majority_right),
        "above_majority": stats.difference(read.right, read.majority_right, paired=True),
        "balanced": balanced,
        "auroc": stats.auroc(read.scores[read.refused], read.scores[~read.refused]),
    }


def ngrams(texts: Texts, labels: ArrayLike, n: int = 18) -> list[str]:
    """The n-grams of the largest positive coefficients of `lr`, largest first: those that speak most for a
    refusal. (The paper's figures show the 18 largest of either sign.)
    """
    model = lr(texts, labels)
    return _strongest(model[-1].coef_[0], model[0].get_feature_names_out(), n)


def _strongest(coefficients: np.ndarray, names: np.ndarray, n: int) -> list[str]:
    order = np.argsort(-coefficients, kind="stable")[:n]
    return [str(names[k]) for k in order if coefficients[k] > 0]


def ngram_overlap(
    texts: Texts, labels: ArrayLike, seed: int = 0, repeats: int = 20, n: int = 18
) -> tuple[Estimate, dict]:
    """Value and controls: how far two halves of the texts agree on their `ngrams`, as the Jaccard index of
    both lists, averaged over `repeats` halvings; the same with shuffled labels, each time in a new order.

    Halves hold the same share of refusals. The interval is over texts: a jackknife that leaves out a tenth of
    them in turn, with Student's quantile; texts can't be drawn twice, for both halves would hold them. Where
    no tenth matters it is Wilson's of the `n` words, for no interval without width is honest.
    `shuffled_high` is what 2.5 % of single halvings with shuffled labels exceed, so a strict bar for a mean.
    Raises ValueError for fewer than two texts of a class.
    """
    labels, rng = np.asarray(labels, bool), np.random.default_rng(seed)
    counter = CountVectorizer(ngram_range=N_GRAMS)
    counts = counter.fit_transform(list(texts))  # once; weights and fits are each half's own, as in `lr`
    names = counter.get_feature_names_out()

    def halved(labels: np.ndarray, among: np.ndarray) -> float:
        halves = train_test_split(
            among, test_size=0.5, stratify=labels[among], random_state=int(rng.integers(2**31))
        )
        found = []
        for rows in halves:
            model = _regression().fit(TfidfTransformer().fit_transform(counts[rows]), labels[rows])
            found.append(set(_strongest(model.coef_[0], names, n)))
        return len(found[0] & found[1]) / max(len(found[0] | found[1]), 1)

    every, tenth = np.arange(len(labels)), np.empty(len(labels), int)
    for kind in (True, False):  # of both classes
        tenth[labels == kind] = rng.permutation((labels == kind).sum()) % TENTHS
    value = float(np.mean([halved(labels, every) for _ in range(repeats)]))
    left_out = [
        np.mean([halved(labels, every[tenth != k]) for _ in range(max(2, repeats // 2))])
        for k in range(TENTHS)
    ]
    error = np.sqrt((TENTHS - 1) * np.var(left_out))
    half = float(t.ppf(0.975, TENTHS - 1) * error)
    low, high = (value - half, value + half) if half else stats.wilson(n * value, n)
    shuffled = [halved(rng.permutation(labels), every) for _ in range(repeats)]
    return Estimate(value, [max(0.0, float(low)), min(1.0, float(high))], len(labels)), {
        "shuffled": float(np.mean(shuffled)),
        "shuffled_high": stats.high(shuffled),
        "shuffles": repeats,
    }
