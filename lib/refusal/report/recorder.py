"""What a notebook reports: numbers, figures and claims, shown as they come and written together at the end.

Run by the runner (``make nb-NN``), everything is written into the run's folder; opened in JupyterLab, the
same cells show the same figures and write nothing, so that trying a parameter never overwrites a result.
"""

import glob
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Image, Markdown, display

from refusal.base.errors import NotebookEnded, UserError
from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS, PACKAGE, RESULTS, write_bytes, write_json, write_text
from refusal.base.machine import end_with
from refusal.base.took import about_minutes, peak_memory
from refusal.model.names import folder_name
from refusal.report import shown
from refusal.report.pictures import picture
from refusal.report.rules import (
    Claim,
    Evidence,
    Measured,
    Record,
    bars,
    evidence_of,
    read_claims,
    read_records,
    record,
)

if TYPE_CHECKING:
    from refusal.model.loading import Model

SHOWN = 770  # pixels across of a figure in a notebook
OUT = "COMPANION_OUT"  # the staging folder, set by the runner for the kernels it starts
RUNNER = "COMPANION_RUNNER"  # the runner's process id
NAMES = "COMPANION_NAMES"  # JSON: what to show in place of a model's absolute path


class Recorder:
    """Collects one notebook's output. `notebook` names its claims file, ``notebooks/<notebook>.claims.toml``;
    `models` are those it is about: their names go onto every figure, and what kind of evidence they are into
    every claim.
    """

    def __init__(self, notebook: str, *models: "Model", name: str | None = None):
        model, self.notebook = models[-1], notebook
        self.folder = "--vs--".join(folder_name(m.name) for m in models)  # where results of these models lie
        self.planned = read_claims(NOTEBOOKS / f"{notebook}.claims.toml")
        self.evidence, self.name = (
            evidence_of(*(m.name for m in models)),
            name or ", ".join(m.name for m in models),
        )
        # not the model itself: a notebook may let go of it
        self.device, self.dtype, self.batch_tokens = model.device, model.dtype, model.batch_tokens
        self.models = _models_at_work() | {model.name: model.revision}
        self.names = json.loads(os.environ.get(NAMES, "{}"))
        self.metrics: dict = {}
        self.claims: list[Record] = []
        self.figures: dict = {}
        self.box: tuple = ()  # the question of the box at the top and where it is shown, once it is
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
        claims: Sequence[str] | Mapping[str, dict] = (),
        **options,
    ):
        """Draw a figure of `refusal.report.figures`, show it, its note below, and keep its data and labels.

        `claims` are ids of reported claims that it is about. Where each has a place, {id: {"group": …} or
        {"panel": …} or {}}, the bars of its rule and its paper's values are drawn there; {"paper": False}
        leaves out values of another unit. Raises UserError for an empty table.
        """
        if data.empty:
            raise UserError(f"figure {name} has no data")
        if claims:
            options |= self._about(claims)
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
        drawn = picture(spec, text)  # from the saved digits, as `make figures` will
        if self.out:
            write_bytes(self.out / "figures" / f"{name}.png", drawn)
        display(Image(data=drawn, width=SHOWN, alt=spec["title"]))
        display(HTML(f"<small>{html.escape(spec['note'])}</small>"))

    def _about(self, claims: Sequence[str] | Mapping[str, dict]) -> dict:
        """What a figure's spec holds of the claims that it is about."""
        spec: dict = {"claims": list(claims), "bars": [], "paper": []}
        for id, place in claims.items() if isinstance(claims, Mapping) else ():
            where, r = {k: v for k, v in place.items() if k != "paper"}, self.reported(id)
            spec["bars"] += [{"at": at, "label": words} | where for at, words in bars(r)]
            numbers = {k: v for k, v in (r.paper_value or {}).items() if isinstance(v, (int, float))}
            if place.get("paper", True):
                spec["paper"] += [{"at": at, "label": words} | where for words, at in numbers.items()]
        return {k: v for k, v in spec.items() if v}

    def reported(self, id: str) -> Record:
        """The record of a claim that was reported. Raises KeyError for another."""
        return {r.id: r for r in self.claims}[id]

    def reading(self, name: str, *sentences: str | None) -> None:
        """Say below the figure `name` what it shows: sentences that code chose and put numbers into, from the
        values of the claim; empty ones are left out. They are its caption and its text in the gallery too.

        Raises ValueError where there is no such figure, or nothing is said.
        """
        text = self._named(" ".join(s for s in sentences if s))
        if name not in self.figures or not text:
            raise ValueError(f"nothing is said of the figure {name}" if not text else f"no figure {name}")
        self.figures[name]["reading"] = text
        display(Markdown(text))

    def opening(self, question: str) -> None:
        """Show the box at the top of the notebook: its question, the model, and the answers, those of the
        last run that is here until `finish` puts this one's in their place.
        """
        self.box = question, display(HTML(self._opening(question, self._before())), display_id=True)

    def _opening(self, question: str, records: Sequence[Record]) -> str:
        here = self._here()
        minutes = about_minutes(here) if here else None
        about = f"{self.name}, {str(self.dtype).removeprefix('torch.')} on {self.device}"
        about += f"; about {minutes} minutes from nothing" if minutes else ""
        return shown.opening(self._named(question), self._named(about), records, f"make nb-{self._number()}")

    def _number(self) -> str:
        return self.notebook.partition("_")[0]

    def _here(self) -> Path | None:
        """The folder of a run of these models with the default parameters; None where there is none."""
        found = sorted(RESULTS.glob(f"*/{glob.escape(self.folder)}/{self.notebook}"))
        return found[0] if found and not self.out else None

    def _before(self) -> list[Record]:
        """What that run found; nothing where it cannot be read, and in a run by the runner."""
        here = self._here()
        try:
            return read_records(here / "claims.json") if here else []
        except (OSError, ValueError):
            return []

    def _answer(self) -> None:
        """Put this run's answers into the box at the top."""
        if self.box and self.box[1]:  # outside a kernel nothing can be shown anew
            question, handle = self.box
            handle.update(HTML(self._opening(question, self.claims)))

    def claim(
        self,
        id: str,
        measured: Estimate,
        controls: dict,
        precondition: str | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Judge a claim of the notebook's claims file by its rule, show the verdict and enter it into the
        ledger. `precondition` says why the model can't inform on it; `evidence` is what this run is evidence
        for, where that is not what the file says.

        Raises ValueError for an id that is not in the file, or that was reported before.
        """
        if id not in self.planned or any(r.id == id for r in self.claims):
            raise ValueError(
                f"{id} {'was reported before' if id in self.planned else 'is not in the claims file'}"
            )
        value, ci95, n = _plain(measured.value), _plain(measured.ci95), measured.n
        if value is None or ci95 is None or None in ci95:  # not finite: nothing was measured
            value = ci95 = None
        half, controls = getattr(measured, "half_width", 0.0), {k: _plain(v) for k, v in controls.items()}
        found = Measured.model_validate(
            {"value": value, "ci95": ci95, "n": n, "controls": controls, "half_width": half}
        )
        claim = self.planned[id]
        claim = claim.model_copy(update={"evidence": evidence}) if evidence else claim
        entry = record(claim, found, self.evidence, precondition)
        self.claims.append(entry)
        said = html.escape(f"({entry.reason})")
        display(HTML(f"<b>{entry.id}</b> {html.escape(entry.statement)}: <b>{entry.verdict}</b> {said}"))

    def plan(self) -> HTML:
        """The notebook's claims as they stand before anything is measured: what is claimed, where, and the
        rule that will judge it.
        """
        rows = [
            (f"<b>{c.id}</b>", *map(html.escape, (c.statement, _source(c), c.rule.words())))
            for c in self.planned.values()
        ]
        return HTML(shown.table(["claim", "statement", "from", "replicated if"], rows))

    def sizes(self, what: str = "Sample sizes", **n: int) -> None:
        """Show how many items each step has, as a small table; underscores of a name are spaces."""
        display(
            HTML(shown.table(["items", "n"], [(k.replace("_", " "), str(v)) for k, v in n.items()], what))
        )

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
        self._answer()
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

    def ledger(self) -> HTML:
        """This notebook's part of the ledger, every record whole."""
        return HTML(shown.ledger(self.claims))

    def closing(self) -> Markdown:
        """What came out, as a paragraph made of the records."""
        return Markdown(shown.closing(self.claims))

    def finish(self) -> None:
        """Write everything. Raises UserError when the notebook reported no number, no figure or no claim."""
        for what in ("metrics", "figures", "claims"):
            if not getattr(self, what):
                raise UserError(f"the notebook reported no {what}")
        if left := [id for id in self.planned if id not in {r.id for r in self.claims}]:
            raise UserError(
                f"the notebook did not report {left[0]} of its claims file", f"{len(left)} claims are missing"
            )
        self._answer()
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
                    "peak_memory_bytes": peak_memory(self.device),
                    **_gpu(self.device),
                    "library": str(PACKAGE),
                    "models": self.models,
                },
            )
            write_json(
                self.out / "claims.json", [self._named(json.loads(c.model_dump_json())) for c in self.claims]
            )


def _source(claim: Claim) -> str:
    return f"{claim.paper} {claim.source}" if claim.origin == "paper" else "ours"


def _models_at_work() -> dict[str, str]:
    """{name: revision} of the models among the notebook's variables, for the runner to compare with what it
    found: a notebook may be about two.
    """
    from refusal.model.loading import Model

    shell = get_ipython()
    return {v.name: v.revision for v in (shell.user_ns.values() if shell else ()) if isinstance(v, Model)}


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
