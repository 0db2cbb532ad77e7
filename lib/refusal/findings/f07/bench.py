"""What it saves that every text of a search is scored once, whichever arm asks, and that what several begin
with is read once.
"""

from collections.abc import Callable
from unittest import mock

from refusal.data.mutators import mutators
from refusal.findings.f07 import evolve
from refusal.findings.f07.evolve import ARMS, Seed
from refusal.measure import attribution
from refusal.model.loading import Model
from refusal.trace import opening, reads, stems
from refusal.trace.edits import rows_of
from refusal.trace.prompts import chat


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """Texts of one arm scored by their stems over whole passes; how many are scored for all arms together
    over the sum of what each alone asks for, counted; words left out in turn over one whole prompt a row.
    """
    seeds = [Seed(p.id, p.text.rstrip(".?!"), "any") for p in prompts[:16]]
    asked: list[str] = []

    def score(texts):
        asked.extend(texts)
        return [float(len(t) % 13) for t in texts]

    evolve.run(seeds, ARMS, mutators(), score, 3, 0)
    together, each = len(asked), 0
    for name, arm in ARMS.items():
        asked.clear()
        evolve.run(seeds, {name: arm}, mutators(), score, 3, 0)
        each += len(asked)
    texts = list(dict.fromkeys(asked))[:160]
    found, readout = chat(model, texts), lambda logits: logits[:, 0]
    parts = lambda text: [attribution.without(text, span) for span in attribution.words(text)]
    cut = chat(model, [part for p in prompts[:12] for part in parts(p.text)])

    def from_the_start():
        with mock.patch.object(opening, "shared_length", lambda *_: 0):
            reads.score_rows(model, rows_of(cut), readout)

    t = alternate(
        rounds=3,
        whole=lambda: reads.score_rows(model, rows_of(found), readout),
        stems=lambda: stems.score_stems_of(model, found, readout, "scoring"),
        start=from_the_start,
        occlusion=lambda: stems.score_stems_of(model, cut, readout, "leaving out words"),
    )
    return [
        f"texts of a search scored with what they begin with read once     {t['stems'] / t['whole']:.2f}   "
        "(at most 0.7)",
        f"texts scored for all arms together / for each alone              {together / each:.2f}   "
        "(at most 0.6)",
        f"words left out, what is before them read once / whole prompts   {t['occlusion'] / t['start']:.2f}  "
        "(at most 0.6)",
    ]
