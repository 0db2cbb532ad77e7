"""``make hello``: a figure and a few judged answers on the smallest real model."""

import pandas as pd

from refusal import data
from refusal.base.files import FIGURES, write_bytes
from refusal.measure import behaviour, directions, stats
from refusal.model import loading
from refusal.report.figures import curve
from refusal.report.pictures import picture
from refusal.run.runner import missing
from refusal.trace import reads
from refusal.trace.prompts import chat

MODEL = "smollm2-135m-instruct"


def main(n: int = 48) -> None:
    """Print judged answers to harmless prompts, and draw how far harmful prompts stand apart from harmless
    ones at each layer.
    """
    print("".join(f"{line}\n" for line in missing([MODEL])), end="", flush=True)
    model = loading.load(MODEL)
    harmful, harmless = (
        chat(model, data.prompts(role, label=label)[:n])
        for role, label in (("direction", "harmful"), ("direction", "harmless"))
    )
    tests = {
        label: chat(model, data.prompts("validation", label=label)[:n]) for label in ("harmful", "harmless")
    }
    asked = tests["harmless"][:4] + tests["harmful"][:4]
    answers = behaviour.behaviour(model, asked).to_dict("records")
    print("\njudged answers (to harmful prompts only the verdict is shown):")
    for row, prompt in zip(answers, asked, strict=True):
        shown = (
            f"{prompt.text[:56]!r} → {row['answer'][:40]!r}"
            if row["label"] == "harmless"
            else f"a prompt of {row['source']}"
        )
        print(f"  {row['outcome']:<10} {row['label']:<9} {shown}")
    made = reads.collect(model, harmful + harmless, at=["t_inst"])["resid"][:, :, 0]
    centres = made[: len(harmful)].mean(0), made[len(harmful) :].mean(0)
    rows, middle, scores = [], model.n_layers // 2, []
    for label, prompts in tests.items():
        s = directions.cluster_score(
            reads.collect(model, prompts, at=["t_inst"])["resid"][:, :, 0], *centres
        )[:, 1:].numpy()
        scores.append(s[:, middle - 1])
        rows += curve(range(1, model.n_layers + 1), stats.mean(s), label)
    spec = {
        "kind": "layers",
        "title": "Does a 135M model hold harmful prompts apart from harmless ones?",
        "xlabel": "layer",
        "ylabel": "cluster score at t_inst",
        "baseline": 0,
        "model": MODEL,
        "note": "held-out prompts; above 0: nearer the harmful",
        "sample": f"{' + '.join(str(len(s)) for s in scores)} prompts; bands: 95 % of the mean",
    }
    stem = FIGURES / "embedded" / MODEL / "hello" / "clusters"
    write_bytes(stem.with_suffix(".png"), picture(spec, pd.DataFrame(rows).to_csv(index=False)))
    print(
        f"\nharmful and harmless prompts that were held out, told apart at layer {middle}: AUROC "
        f"{stats.area(*scores):.2f} (chance 0.50)"
    )
    print(
        f"figure: {stem.relative_to(FIGURES.parent)}.png\nnext: make nb-NN (one notebook, by its number), "
        f"make reproduce (every notebook), or make lab"
    )
