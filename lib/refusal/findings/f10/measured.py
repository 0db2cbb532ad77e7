"""What the ledger holds of each claim of notebook 10 (arXiv 2306.03423): (measured, controls), and why
nothing can be said where that is so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f10 import judges, predict, recognise
from refusal.findings.f10.predict import Reader
from refusal.findings.f10.released import Released
from refusal.measure import stats
from refusal.measure.judge import judge
from refusal.measure.seen import POSITIONS, Seen

SHORT, LONG = 12, 24  # tokens of an answer that the judge sees
AGAIN = 0.5  # the share of its labelled answers that a model has to say again
PUBLISHED = {"lr": 90.62, "rf": 86.72}  # % right of 256 test answers
FORESTS = {"answers": (300, 5), "prompts": (3000, 2)}  # trees and min_samples_split
TAUGHT = 10  # refused and answered prompts without which nothing is taught
NO_DATA = "DATA was not given: the released answers are not in this repository"

Found = tuple[Estimate, dict]


@dataclass(frozen=True)
class Labelled:
    """A model's answers whose labels were found: the rows of `judges.found`, the first `SHORT` and `LONG`
    tokens of each and what the judge says of them, {tokens: [answer]}; and the share of labels that was
    found.
    """

    rows: pd.DataFrame
    texts: dict[int, list[str]]
    said: dict[int, list[str]]
    again: Estimate

    @property
    def read(self) -> np.ndarray:
        """Whether each answer is a refusal by reading."""
        return judges.refused(self.rows.final)

    @property
    def steered(self) -> np.ndarray:
        return self.rows.arm.str.startswith("steered").to_numpy(bool)


def labelled(texts: Sequence[str], labels: pd.DataFrame, tokenizer) -> Labelled:
    """Of a model's answers and its own rows of `refusal.data.judged_answers`."""
    rows, again = judges.found(judges.by_hash(texts), labels)
    cut = {n: [judges.first_tokens(tokenizer, text, n) for text in rows.text] for n in (SHORT, LONG)}
    return Labelled(rows, cut, {n: [judge(text) for text in some] for n, some in cut.items()}, again)


def no_labels(found: Labelled | None) -> str | None:
    """Why the judge cannot be held against labels, or None."""
    if found is None or not found.again.n:
        return "no answers of this model were read and labelled"
    share = found.again.value or 0.0
    needed = f"{AGAIN:.0%} are needed"
    return (
        None
        if share >= AGAIN
        else f"it says {share:.0%} of its {found.again.n} labelled answers again; {needed}"
    )


def judge_bias(found: Labelled, steered: bool) -> Found:
    """The judge's refusal rate minus that by reading; beside it the same with `disclaimed` as a refusal."""
    here = found.steered == steered
    said, read = np.array(found.said[LONG])[here], found.read[here]
    if not len(said):
        return NOTHING, {"found_again": found.again.value}
    return judges.bias(judges.refused(said), read), {
        "judged": float(judges.refused(said).mean()),
        "read": float(read.mean()),
        **judges.bias(judges.refused(said, "disclaimed"), read).under("with_disclaimed"),
        "found_again": found.again.value,
    }


def judge_agreement(found: Labelled) -> Found:
    """κ with the labels; beside it each public list on the same text, and the two raters with each other."""
    lists = {
        name: judges.agreement(judges.listed(name, found.texts[LONG]), found.rows.final).value
        for name in judges.LISTS
    }
    return judges.agreement(found.said[LONG], found.rows.final), {
        "best_public_list": max((x for x in lists.values() if x is not None), default=None),
        **{f"list_{name.replace(' ', '_').lower()}": value for name, value in lists.items()},
        "raters": judges.raters(found.rows).value,
        "found_again": found.again.value,
    }


def first_tokens(found: Labelled) -> Found:
    """The share of answers on which the judge, after `SHORT` tokens, says what was read in all of them."""
    right = {n: judges.refused(said) == found.read for n, said in found.said.items()}
    after = stats.rate(right[LONG])
    return stats.rate(right[SHORT]), {"after_24": after.value, "found_again": found.again.value}


def degenerate(found: Labelled) -> Found:
    """The share of answers broken by reading that the judge finds, at `LONG` tokens and in the whole answer
    that was read, for text may begin to loop later; and of others the share that it calls broken.
    """
    broken = found.rows.final.to_numpy() == "degenerate"
    said = np.isin(found.said[LONG], judges.BROKEN)
    whole = judges.degenerate_found([judge(text) for text in found.rows.text], found.rows.final)
    return judges.degenerate_found(found.said[LONG], found.rows.final), {
        "found_in_whole": whole.value,
        "wrongly_called": float(said[~broken].mean()) if (~broken).any() else None,
        "found_again": found.again.value,
    }


def bootstrap(found: Labelled, seed: int = 0) -> Found:
    """What a reader that the judge taught has more right than the judge."""
    judged = judges.refused(found.said[LONG])
    return judges.bootstrap_reader(found.texts[LONG], judged, found.read, seed)


def elsewhere(table: pd.DataFrame | None, text: str) -> Found:
    """κ of the judge, on the first nine words or about `SHORT` tokens of the column `text`, with labels by
    people; NOTHING without a table.
    """
    if table is None:
        return NOTHING, {"given": 0}
    texts, refused = list(table[text]), table.refused.to_numpy(bool)
    said = judges.refused([judge(" ".join(text.split()[:9])) for text in texts])
    whole = judges.refused([judge(text) for text in texts])
    kappa = lambda verdicts: stats.kappa(verdicts, refused)
    return kappa(said), {
        "judged": float(said.mean()),
        "labelled": float(np.mean(refused)),
        "whole_text": kappa(whole).value,
    }


def _classifier(kind: str, of: str) -> recognise.Make:
    if kind == "lr":
        return recognise.lr
    trees, least = FORESTS[of]
    return partial(recognise.forest, trees=trees, min_samples_split=least)


def published(released: Released, kind: str) -> Found:
    """How many points the share right on the authors' own split lies from the published one; beside it what
    the number hides. The same items, so that the interval has no width.
    """
    table = released.answers
    if table is None or not released.listed:
        return NOTHING, {"published": PUBLISHED[kind]}
    train, _, test = recognise.split(len(table))
    make = _classifier(kind, "answers")
    found = recognise.measured(recognise.tested(make, table.response, table.refused, train, test))
    accuracy = found["accuracy"]
    assert accuracy.value is not None
    off = abs(100 * accuracy.value - PUBLISHED[kind])
    return Estimate(off, [off, off], len(test)), {
        **accuracy.under("accuracy"),
        "majority": found["majority"].value,
        "balanced": found["balanced"].value,
        "auroc": found["auroc"].value,
    }


def majority(released: Released) -> Estimate | None:
    """The share of the released questions that are of the more frequent class, where they are at hand."""
    if released.answers is None:
        return None
    refused = released.answers.refused[released.answers.source == "quora"]
    return stats.rate(refused if refused.mean() > 0.5 else ~refused)


def not_listed(released: Released) -> str | None:
    """Why the published numbers cannot be recomputed, or None."""
    if released.answers is None:
        return NO_DATA if released.xstest is None else "the authors' answers are not in DATA"
    return None if released.listed else "the files in DATA are not, byte for byte, the released ones"


def carried(released: Released, source: str, text: str) -> tuple[Found, str | None]:
    """Right minus right by the majority class, of `text` (response or prompt), where the classifier was
    taught on the other sources; and why it cannot be said.
    """
    table = released.answers
    if table is None:
        return (NOTHING, {"source": source}), not_listed(released)
    read = recognise.held_out(recognise.lr, table[text], table.refused, table.source).get(source)
    if read is None:
        return (NOTHING, {"source": source}), f"too few {source} rows, or the others hold one class"
    found = recognise.measured(read)
    controls = {name: found[name].value for name in ("accuracy", "majority", "balanced", "auroc")}
    return (found["above_majority"], controls), None


@dataclass(frozen=True)
class Taught:
    """What was taught to foretell a refusal: readers of the text by name, the name of the best one, readers
    of states by position, and probers of shuffled labels by position.
    """

    text: dict[str, Reader]
    best: str
    inside: dict[str, predict.Inside]
    shuffled: dict[str, list[Reader]]


def teach(train: Seen, validation: Seen, seed: int = 0, embed=predict.sentence_embeddings) -> Taught:
    """Readers of text and states, taught on `train` and, of the text, chosen on `validation`. Give both as
    `told`.
    """
    text = predict.text_readers(train, embed)
    inside = {place: predict.inside(train, place) for place in POSITIONS}
    return Taught(
        text,
        predict.best_text_reader(text, validation),
        inside,
        {place: predict.shuffled(train, place, found.layer, seed) for place, found in inside.items()},
    )


def cannot_teach(train: Seen, validation: Seen) -> str | None:
    """Why nothing can be taught or chosen, or None. Give both as `told`."""
    for what, seen, least in (("direction", train, TAUGHT), ("validation", validation, 1)):
        few = min(seen.refused.sum(), (~seen.refused).sum())
        if few < least:
            kinds = f"{seen.refused.sum()} refused and {(~seen.refused).sum()} answered"
            return f"{kinds} prompts of the {what} split; {least} of each are needed"
    return None


def area(scores: np.ndarray, seen: Seen) -> Estimate:
    """AUROC of refused against answered prompts."""
    return stats.auroc(scores[seen.refused], scores[~seen.refused])


def within(scores: np.ndarray, seen: Seen) -> Estimate:
    """The same over pairs of one source."""
    return stats.auroc_within(scores, seen.refused, seen.source)


def outside(taught: Taught, test: Seen, strata: bool = False) -> Found:
    """AUROC of the best reader of text, over all pairs or those of one source; beside it every other."""
    of = within if strata else area
    by = {name: of(reader(test), test) for name, reader in taught.text.items()}
    others = {name.replace(" ", "_").lower(): found.value for name, found in by.items()}
    return by[taught.best], {**others, "best": taught.best, "refused": float(test.refused.mean())}


def held_out(train: Seen, here: Seen, source: str, best: str, embed=predict.sentence_embeddings) -> Found:
    """AUROC on one source's prompts, `here`, of the best kind of text reader, taught on the other sources;
    NOTHING where these are of one class.
    """
    others = train.where(train.source != source)
    if len(set(others.refused)) < 2 or not here.prompts:
        return NOTHING, {"reader": best}
    reader = predict.text_readers(others, embed)[best]
    return area(reader(here), here), {"reader": best, "refused": float(here.refused.mean())}


def over_text(taught: Taught, test: Seen, place: str) -> Found:
    """AUROC of the prober at `place` minus that of the best text reader, on the same prompts; beside it both,
    and the most that probers of shuffled labels reach.
    """
    mine, text = taught.inside[place].reader(test), taught.text[taught.best](test)
    yes = test.refused
    chance = [area(reader(test), test).value for reader in taught.shuffled[place]]
    return stats.auroc_difference(mine[yes], mine[~yes], text[yes], text[~yes]), {
        **area(mine, test).under("prober"),
        "text": area(text, test).value,
        "shuffled_high": max((x for x in chance if x is not None), default=None),
        "shuffles": len(chance),
        "layer": taught.inside[place].layer,
    }


def closing(taught: Taught, test: Seen) -> Found:
    """AUROC of the prober at t_post minus that of the one at t_inst, on the same prompts."""
    inst, post = (taught.inside[place].reader(test) for place in POSITIONS)
    yes = test.refused
    areas = {place: area(x, test).value for place, x in (("t_inst", inst), ("t_post", post))}
    return stats.auroc_difference(post[yes], post[~yes], inst[yes], inst[~yes]), areas


def ngrams(seen: Seen, seed: int = 0) -> Found:
    """The Jaccard index of the strongest n-grams of two halves of the prompts."""
    return recognise.ngram_overlap(seen.texts, seen.refused, seed)


def areas(taught: Taught, seen: Mapping[str, Seen], score: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """AUROC of every reader in every group, for a figure: group, reader, value, low, high, n. `score` is the
    first token's, by group: what can be known at most before an answer.
    """
    rows = []
    for group, some in seen.items():
        readers = {name: reader(some) for name, reader in taught.text.items()}
        readers |= {f"states at {place}": found.reader(some) for place, found in taught.inside.items()}
        readers |= {"first token": score[group]} if group in score else {}
        for name, scores in readers.items():
            found = area(scores, some)
            low, high = found.ci95 or (None, None)
            rows.append(
                {
                    "group": group,
                    "reader": name,
                    "value": found.value,
                    "low": low,
                    "high": high,
                    "n": found.n,
                }
            )
    return pd.DataFrame(rows)
