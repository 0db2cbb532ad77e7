"""What a notebook reports: numbers, figures and claims, shown as they come and written together at the end.

Run by the runner (``make nb-NN``), everything is written into the run's folder; opened in JupyterLab, the
same cells show the same figures and write nothing, so that trying a parameter never overwrites a result.
"""

import json
import math
import os
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Image, display

from refusal.base.errors import NotebookEnded, UserError
from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS, PACKAGE, write_json, write_text
from refusal.base.machine import end_with
from refusal.report import figures
from refusal.report.render import HEADER, table
from refusal.report.rules import Measured, Record, evidence_of, read_claims, record

if TYPE_CHECKING:
    from refusal.model.loading import Model

OUT = "COMPANION_OUT"  # the staging folder, set by the runner for the kernels it starts
RUNNER = "COMPANION_RUNNER"  # the runner's process id
NAMES = "COMPANION_NAMES"  # JSON: what to show in place of a model's absolute path


class Recorder:
    """Collects one notebook's output. `notebook` names its claims file, ``notebooks/<notebook>.claims.toml``;
    `models` are those it is about: their names go onto every figure, and what kind of evidence they are into
    every claim.
    """

    def __init__(self, notebook: str, *models: "Model", name: str | None = None):
        model = models[-1]
        self.planned = read_claims(NOTEBOOKS / f"{notebook}.claims.toml")
        self.evidence, self.name = (
            evidence_of(*(m.name for m in models)),
            name or ", ".join(m.name for m in models),
        )
        self.device, self.dtype, self.batch_tokens = (
            model.device,
            model.dtype,
            model.batch_tokens,
        )  # not the model: a notebook may let go of it
        self.models = _models_at_work() | {model.name: model.revision}
        self.names = json.loads(os.environ.get(NAMES, "{}"))
        self.metrics: dict = {}
        self.claims: list[Record] = []
        self.figures: dict = {}
        self.out = Path(os.environ[OUT]) if os.environ.get(OUT) else None
        if self.out:
            end_with(int(os.environ[RUNNER]))

    def metric(self, name: str, value, ci95=None, n: int | None = None) -> None:
        """Report a number or a list of them, its interval beside it. `value` may be an `Estimate`, which has
        all three.
        """
        if isinstance(value, Estimate):
            value, ci95, n = value.value, value.ci95, value.n
        self.metrics[name] = _plain(value)
        if ci95 is not None:
            self.metrics[f"{name}/ci95"] = _plain(ci95)
        if n is not None:
            self.metrics[f"{name}/n"] = int(n)

    def figure(
        self,
        name: str,
        kind: str,
        data: pd.DataFrame,
        *,
        title: str,
        xlabel: str,
        ylabel: str,
        note: str,
        **options,
    ):
        """Draw a figure of `refusal.report.figures`, show it, and keep its data and labels. Raises UserError
        for an empty table.
        """
        if data.empty:
            raise UserError(f"figure {name} has no data")
        made = " (constructed model)" if self.evidence == "constructed" else ""
        spec = {
            "kind": kind,
            "title": title,
            "xlabel": xlabel,
            "ylabel": ylabel,
            "note": note,
            "model": self.name + made,
            **options,
        }
        spec, data = self._named(spec), data.map(self._named) if self.names else data
        text = data.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        self.figures[name] = spec
        if self.out:
            write_text(self.out / "data" / f"{name}.csv", text)
        fig = figures.draw(spec, pd.read_csv(StringIO(text)))  # from the saved digits, as `make figures` will
        if self.out:
            figures.save(fig, self.out / "figures" / name)
        picture = BytesIO()  # as a picture: what a figure object shows depends on the kernel's backend
        fig.savefig(picture, format="png", dpi=110, facecolor="white")
        display(Image(data=picture.getvalue()))
        figures.plt.close(fig)

    def claim(self, id: str, measured: Estimate, controls: dict, precondition: str | None = None) -> None:
        """Judge a claim of the notebook's claims file by its rule, show the verdict and enter it into the
        ledger. `precondition` says why the model can't inform on it.

        Raises ValueError for an id that is not in the file, or that was reported before.
        """
        if id not in self.planned or any(r.id == id for r in self.claims):
            raise ValueError(
                f"{id} {'was reported before' if id in self.planned else 'is not in the claims file'}"
            )
        value, ci95, n = _plain(measured.value), _plain(measured.ci95), measured.n
        if value is None or ci95 is None or None in ci95:  # not finite: nothing was measured
            value = ci95 = None
        found = Measured(value=value, ci95=ci95, n=n, controls={k: _plain(v) for k, v in controls.items()})
        entry = record(self.planned[id], found, self.evidence, precondition)
        self.claims.append(entry)
        display(HTML(f"<b>{entry.id}</b> {entry.statement}: <b>{entry.verdict}</b> ({entry.reason})"))

    def plan(self) -> pd.DataFrame:
        """The notebook's claims as they stand before anything is measured: what is claimed, where, and the
        rule that will judge it.
        """
        rows = [
            (c.id, c.statement, f"{c.paper} {c.source}" if c.origin == "paper" else "ours", c.rule.words())
            for c in self.planned.values()
        ]
        return pd.DataFrame(rows, columns=["claim", "statement", "from", "replicated if"])

    def end_if(self, reason: str | None) -> None:
        """Where `reason` says why the model can't inform: every claim not yet reported becomes uninformative,
        all is written, and the notebook ends here.

        Raises NotebookEnded, which the runner takes for a good end; in JupyterLab it stops "Run All" before
        the expensive cells.
        """
        if not reason:
            return
        for id in [id for id in self.planned if id not in {r.id for r in self.claims}]:
            self.claim(id, NOTHING, {"precondition": "not met"}, reason)
        self._write()
        raise NotebookEnded(
            f"uninformative: {reason}",
            f"{len(self.planned)} claims are reported so; nothing after this cell was run",
        )

    def _named(self, x):
        """`x` with the name of a model in place of its path, at any depth: nobody's folders belong into
        results.
        """
        if isinstance(x, str):
            for path, name in self.names.items():
                x = x.replace(path, name)
        elif isinstance(x, dict):
            return {self._named(k): self._named(v) for k, v in x.items()}
        elif isinstance(x, (list, tuple)):
            return [self._named(v) for v in x]
        return x

    def ledger(self) -> pd.DataFrame:
        """This notebook's part of the ledger as a table."""
        return pd.DataFrame(table(self.claims), columns=HEADER)

    def finish(self) -> None:
        """Write everything. Raises UserError when the notebook reported no number, no figure or no claim."""
        for what in ("metrics", "figures", "claims"):
            if not getattr(self, what):
                raise UserError(f"the notebook reported no {what}")
        if left := [id for id in self.planned if id not in {r.id for r in self.claims}]:
            raise UserError(
                f"the notebook did not report {left[0]} of its claims file", f"{len(left)} claims are missing"
            )
        self._write()

    def _write(self) -> None:
        if self.out:
            write_json(self.out / "metrics.json", self._named(self.metrics))
            write_json(self.out / "figures.json", self.figures)
            write_json(
                self.out / "usage.json",
                {
                    "device": str(self.device),
                    "dtype": str(self.dtype).removeprefix("torch."),
                    "batch_tokens": self.batch_tokens,
                    "peak_memory_bytes": _peak_memory(self.device),
                    **_gpu(self.device),
                    "library": str(PACKAGE),
                    "models": self.models,
                },
            )
            write_json(
                self.out / "claims.json", [self._named(json.loads(c.model_dump_json())) for c in self.claims]
            )


def _models_at_work() -> dict[str, str]:
    """{name: revision} of the models among the notebook's variables, for the runner to compare with what it
    found: a notebook may be about two.
    """
    from refusal.model.loading import Model

    shell = get_ipython()
    return {v.name: v.revision for v in (shell.user_ns.values() if shell else ()) if isinstance(v, Model)}


def _peak_memory(device) -> dict:
    """Peak memory of this process, and of the GPU where one is used, in bytes."""
    peak = {}
    try:
        import resource
        import sys

        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    except ImportError:  # Windows has no resource module
        pass
    if device.type == "cuda":
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


def _gpu(device) -> dict:
    """The name of the GPU, where one is used: times differ by it."""
    if device.type != "cuda":
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name(device)}


def _plain(x):
    """Python numbers, None for what is not finite, lists for arrays."""
    if hasattr(x, "tolist"):
        x = x.tolist()
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    return x
