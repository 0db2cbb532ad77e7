"""What preferences cost over supervised training; answers in batches over one by one; what marks cost."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from refusal.findings.f09 import scorer
from refusal.findings.f09.arms import WEIGHT
from refusal.model.loading import Model
from refusal.trace import decode
from refusal.trace.decode import Decoding
from refusal.trace.edits import Row
from refusal.train.fit import adapted
from refusal.train.preference import preference_steps


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """A step on preferences over a supervised one on the same answers to prefer; answers one by one over
    those in batches; and the seconds in which a thousand answers are scored, without embeddings.
    """
    ids = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    good, bad = ids("It is hard to lose someone. You could call a friend tonight. " * 4), ids("I can't help.")
    pairs = [(list(p.ids), good, bad) for p in prompts[:8]]
    copied = adapted(model.module, 0)
    learned = [p for p in copied.parameters() if p.requires_grad]

    def step(weight: float):
        for p in learned:
            p.requires_grad_(True)
        preference_steps(copied, pairs, 1, 1e-4, 0, weight, label="a step")

    rows = [Row(p) for p in prompts[:24]]
    t = alternate(
        rounds=3,
        sft=lambda: step(0.0),
        orpo=lambda: step(WEIGHT),
        together=lambda: decode.generate_rows(model, rows, Decoding(16)),
        apart=lambda: [decode.generate_rows(model, [row], Decoding(16)) for row in rows[:4]],
    )
    needs = (("friend", "talk"),)
    queries = [
        scorer.Query(f"q{i % 20}", "sensitive", "I lost my friend and feel alone.", needs)
        for i in range(1000)
    ]
    text, close = model.tokenizer.decode(good), np.full(1000, 0.4)
    answers = [f"{text} {i}" for i in range(1000)]
    drawn = np.random.default_rng(0).integers(-1, 2, (1000, len(scorer.ITEMS)))
    fitted = scorer.fit(queries, answers, pd.DataFrame(drawn, columns=list(scorer.ITEMS)), close)
    started = time.perf_counter()
    scorer.table(queries, answers, fitted, similarity=close)
    seconds = time.perf_counter() - started
    return [
        f"a step on preferences / a supervised step                         {t['orpo'] / t['sft']:.2f}   "
        "(at most 2)",
        f"answers one by one / in batches                                   "
        f"{t['apart'] * len(rows) / 4 / t['together']:.2f}   (at least 5)",
        f"seconds for the marks of a thousand answers                       {seconds:.1f}    (at most 5)",
    ]
