"""Interchange patching: where in a model is it stored that a statement is true? (arXiv 2504.02904, section 3)

Context. Two runs that differ in one subject: a clean one ("The city of Lyon is in France") and a corrupt one
("The city of Osaka …"). One residual-stream state of the clean run is put into the corrupt run; where the
output turns clean, the knowledge that the output needs was in that state.

Detail. Each cell of the grid is one row of a batch: the corrupt run starts at the patched layer from its
stored states, with the common opening's keys and values kept. Cells before the first token that differs, and
cells of the last layer at other tokens than the last, change nothing: they are filled in, not run.

Intuition. Early layers at the subject carry it, late layers at the last token have read it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from refusal.measure.readouts import Readout, keyed
from refusal.model.loading import Model
from refusal.trace import cache
from refusal.trace.edits import Patch, Row
from refusal.trace.prompts import Prompt, plain
from refusal.trace.reads import collect, score, score_rows


@dataclass(frozen=True)
class Pair:
    """Two prompts of equal token pattern that differ in their subject, ``ids[start:stop]``; `answers` are two
    token ids, right and wrong.

    `object` is (start, stop) of the object that both name, None where it is asked for. Pairs of one `cluster`
    share a subject: they are not independent.
    """

    clean: Prompt
    corrupt: Prompt
    answers: tuple[int, int]
    object: tuple[int, int] | None = None
    cluster: int = 0

    @property
    def cells(self) -> dict[str, slice]:
        """The positions of the grid's columns that a paper tells apart: subject, object where there is one,
        last token.
        """
        found = {
            "subject": slice(self.clean.start, self.clean.stop),
            "last": slice(len(self.clean.ids) - 1, len(self.clean.ids)),
        }
        return found | ({"object": slice(*self.object)} if self.object else {})


def pairs(
    model: Model,
    texts: Sequence[tuple[str, str]],
    answers: Sequence[tuple[int, int]],
    objects: Sequence[str] | None = None,
    clusters: Sequence[int] | None = None,
) -> list[Pair]:
    """The pairs of the most common token pattern, from (clean, corrupt) texts; `objects` are what both texts
    name after their subject.

    A pattern is (length, where the two differ, where the object is); pairs of unequal length or of another
    pattern are left out, so that a position means the same in all pairs. The subject is from the first to the
    last token that differs; pairs that differ in the last token itself ("a", "an"), from which the answer is
    read, are left out as well.
    """
    by_pattern: dict[tuple, list[Pair]] = {}
    for k, ((clean, corrupt), answer) in enumerate(zip(texts, answers, strict=True)):
        a, b = plain(model, [clean, corrupt])
        if len(a.ids) != len(b.ids) or answer[0] == answer[1]:
            continue
        differ = [i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=True)) if x != y]
        if differ and differ[-1] < len(a.ids) - 1:
            start, stop = differ[0], differ[-1] + 1
            at = (
                token_span(model, clean, clean.rindex(objects[k]), clean.rindex(objects[k]) + len(objects[k]))
                if objects
                else None
            )
            pair = Pair(
                replace(a, start=start, stop=stop),
                replace(b, start=start, stop=stop),
                answer,
                at,
                clusters[k] if clusters else k,
            )
            by_pattern.setdefault((len(a.ids), start, stop, at), []).append(pair)
    return max(by_pattern.values(), key=len, default=[])


def token_span(model: Model, text: str, start: int, stop: int) -> tuple[int, int]:
    """(first, last + 1) of the tokens of `text` that hold any of its characters ``[start:stop]``."""
    offsets = model.tokenizer(text, add_special_tokens=True, return_offsets_mapping=True)["offset_mapping"]
    inside = [k for k, (a, b) in enumerate(offsets) if a < stop and b > start]
    return inside[0], inside[-1] + 1


# where the subject determines the object
RECALL_SETS = ("cities", "translations", "element_symbols", "animal_class")
# sets that hold all facts; the others negate one of them
FACTS = ("cities", "larger_than", "translations", "element_symbols", "animal_class")


def _partners(
    model: Model, rows: pd.DataFrame, texts: Sequence[str], same_end: bool
) -> list[tuple[int, int]]:
    """Index pairs (clean, corrupt) among texts of the most common token length, objects different; with
    `same_end` both texts have the same last word, from which the answer is read. First pairs that share no
    text, then the same ones with clean and corrupt exchanged.
    """
    lengths = [len(p.ids) for p in plain(model, texts)]
    common = max(set(lengths), key=lambda n: (lengths.count(n), -n))
    free, found = [i for i, n in enumerate(lengths) if n == common], []
    while free:
        i = free.pop(0)
        others = [j for j in free if rows.object.iloc[j] != rows.object.iloc[i]]
        partner = next(
            (j for j in others if not same_end or texts[j].split()[-1] == texts[i].split()[-1]), None
        )
        if partner is not None:
            free.remove(partner)
            found.append((i, partner))
    return found + [(j, i) for i, j in found]


def recall_pairs(model: Model, table: pd.DataFrame) -> list[Pair]:
    """Pairs that ask for the object: "The city of Lyon is in the country of" → France, against the corrupt
    subject's own country.

    `table` holds one set of `RECALL_SETS` from `refusal.data.statement_sets.statements`.
    """
    rows = table[table.label & ~table.object.str.startswith("the ")].reset_index(drop=True)
    prompts = [_until_object(row.statement, row.object) for row in rows.itertuples()]
    tokens = [_first_token(model, *p) for p in prompts]
    chosen = _partners(model, rows, [text for text, _ in prompts], same_end=True)
    texts, answers = (
        [(prompts[i][0], prompts[j][0]) for i, j in chosen],
        [(tokens[i], tokens[j]) for i, j in chosen],
    )
    return pairs(model, texts, answers, clusters=[min(i, j) for i, j in chosen])


def _until_object(statement: str, thing: str) -> tuple[str, str]:
    """The statement up to its object, and up to the object's end; a city's country is asked for in so many
    words.
    """
    before = statement[: statement.rindex(thing)]
    if before.startswith("The city of "):
        before = before.replace(" is in ", " is in the country of ")
    return before.rstrip(" "), before + thing


def _first_token(model: Model, text: str, whole: str) -> int:
    """The token that follows `text` in `whole`."""
    short, long = (model.tokenizer(t, add_special_tokens=True)["input_ids"] for t in (text, whole))
    return long[len(short)] if long[: len(short)] == short and len(long) > len(short) else -1


QUESTION = " This statement is:"


def shot_lines(shots: pd.DataFrame) -> str:
    """Statements with their verdicts, a line each: what stands before the statement that is asked about."""
    return "".join(
        f"{statement}{QUESTION} {'TRUE' if label else 'FALSE'}\n"
        for statement, label in zip(shots.statement, shots.label, strict=True)
    )


def verdict_tokens(model: Model) -> tuple[int, int]:
    """The first tokens of " TRUE" and " FALSE"."""
    true, false = (
        model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("TRUE", "FALSE")
    )
    return true, false


def verbal_pairs(model: Model, table: pd.DataFrame, shots: pd.DataFrame) -> list[Pair]:
    """Pairs that ask for the verdict after four shots, the same ones for all: "… This statement is:" → TRUE
    against FALSE.
    """
    lines = shot_lines(shots)
    true, false = (table[table.label == truth].reset_index(drop=True) for truth in (True, False))
    # any other subject makes the statement false, so partners of equal length can be sought
    if table.set.iloc[0] in RECALL_SETS:
        chosen = _partners(model, true, list(true.statement), same_end=False)
        both = [
            (true.statement[i], true.statement[i].replace(true.subject[i], true.subject[j], 1))
            for i, j in chosen
        ]
        objects, clusters = [true.object[i] for i, _ in chosen], [min(pair) for pair in chosen]
    else:
        both = [(row.statement, false.statement[false.pair == row.pair].iloc[0]) for row in true.itertuples()]
        objects, clusters = list(true.object), [k // 2 for k in range(len(true))]
    texts = [(f"{lines}{one}{QUESTION}", f"{lines}{other}{QUESTION}") for one, other in both]
    return pairs(model, texts, [verdict_tokens(model)] * len(both), objects, clusters)


class AnswerReadout(Readout, Protocol):
    ids: list[int]  # the tokens of its columns


def answer_logits(pairs: Sequence[Pair]) -> AnswerReadout:
    """A readout for `refusal.trace.reads.score`: [row, k], the logits of all answers that occur, in the
    order of their ids.
    """
    ids = torch.tensor(sorted({t for pair in pairs for t in pair.answers}))

    @keyed(f"logits of {ids.tolist()}")
    def readout(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, ids.to(logits.device)]

    with_ids = cast(AnswerReadout, readout)
    with_ids.ids = ids.tolist()
    return with_ids


def logit_difference(
    values: torch.Tensor, pairs: Sequence[Pair], ids: Sequence[int]
) -> Float[torch.Tensor, "pair"]:
    """logit(right) − logit(wrong) from what `answer_logits` read: [pair, k] → [pair]."""
    right, wrong = (torch.tensor([ids.index(pair.answers[k]) for pair in pairs]) for k in (0, 1))
    rows = torch.arange(len(pairs))
    return values[rows, right] - values[rows, wrong]


def baseline(model: Model, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """logit(right) − logit(wrong) of the clean and of the corrupt run, without a patch: [pair], [pair]."""
    readout = answer_logits(pairs)
    both = score(model, [p.clean for p in pairs] + [p.corrupt for p in pairs], readout)[0]
    return logit_difference(both[: len(pairs)], pairs, readout.ids), logit_difference(
        both[len(pairs) :], pairs, readout.ids
    )


def grid(
    source: Model, target: Model, pairs: Sequence[Pair], layers: Sequence[int]
) -> Float[torch.Tensor, "pair layer position"]:
    """logit(right) − logit(wrong) after ``h[layer]`` at one position of `source`'s clean run was put into
    `target`'s corrupt run.

    `source` and `target` are the same model, or two of equal shape and tokenizer. `layers` are rows of ``h``
    (a paper's "output of block l" is l + 1). Cached on disk.
    """
    name = cache.key(target, _grid, source=[source.revision, str(source.dtype)], pairs=pairs, layers=layers)
    return cache.remember_tensors(name, lambda: {"grid": _grid(source, target, pairs, layers)})["grid"]


def _grid(source: Model, target: Model, pairs, layers):
    n, width, first = len(pairs), len(pairs[0].clean.ids), pairs[0].clean.start
    positions = list(range(first, width))
    # [pair, layer, position, d_model]
    states = collect(source, [p.clean for p in pairs], at=[k - width for k in positions], layers=layers)[
        "resid"
    ]
    corrupt, readout = [p.corrupt for p in pairs], answer_logits(pairs)
    _, untouched = baseline(target, pairs)
    out = untouched[:, None, None].repeat(1, len(layers), width)
    cells = [
        (i, a, k)
        for a, layer in enumerate(layers)
        for k in range(len(positions))
        for i in range(n)
        if layer < target.n_layers or positions[k] == width - 1
    ]
    rows = [Row(corrupt[i], (Patch(states[i, a, k], layers[a], (positions[k],)),)) for i, a, k in cells]
    values = score_rows(target, rows, readout, label=f"patching {len(rows)} cells")
    differences = logit_difference(values, [pairs[i] for i, _, _ in cells], readout.ids)
    for (i, a, k), value in zip(cells, differences, strict=True):
        out[i, a, positions[k]] = value
    return out


def binned(matrix: np.ndarray, bins: int = 20) -> np.ndarray:
    """The paper's coarse map: values cut into `bins` between minimum and maximum, the lower half set to
    zero."""
    low, high = matrix.min(), matrix.max()
    if high == low:
        return np.zeros_like(matrix)
    level = np.clip(np.floor((matrix - low) / (high - low) * bins), 0, bins - 1)
    return np.where(level < bins / 2, 0.0, low + (level + 0.5) / bins * (high - low))


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's r of two flattened grids; None where one is constant."""
    a, b = a.ravel(), b.ravel()
    return None if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])


def compare(a: np.ndarray, b: np.ndarray) -> dict[str, float | None]:
    """How alike two mean grids [layer, position] are: r on the paper's binned grids, on the raw ones, and on
    cells nonzero in either.
    """
    coarse_a, coarse_b = binned(a), binned(b)
    nonzero = (coarse_a != 0) | (coarse_b != 0)
    return {
        "r_binned": correlation(coarse_a, coarse_b),
        "r_raw": correlation(a, b),
        "r_nonzero": correlation(a[nonzero], b[nonzero]) if nonzero.sum() > 2 else None,
    }


def largest_difference(a: np.ndarray, b: np.ndarray, cells: dict[str, slice]) -> dict[str, float]:
    """max|a − b| of two mean grids over all cells, over each of `cells` (columns), and over subject and
    object together (``knowledge``).
    """
    apart = np.abs(a - b).max(0)  # [position]
    found = {"all": float(apart.max())} | {name: float(apart[where].max()) for name, where in cells.items()}
    return found | {"knowledge": max(found[name] for name in ("subject", "object") if name in found)}
