"""How fast a model is here, and about how many minutes each notebook will take on it: what the runs took
whose results are here, scaled by what the same short work takes with their model and with this one.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from refusal import data
from refusal.base import took
from refusal.base.files import RESULTS
from refusal.model.loading import Model
from refusal.model.names import shown_name
from refusal.model.registry import MODELS, RECIPES
from refusal.run import params, runner
from refusal.trace import decode, reads
from refusal.trace.edits import rows_of
from refusal.trace.prompts import chat

N, STEPS = 8, 8  # prompts that are timed, and tokens of their answers
SAME = ("processor", "cores", "bfloat16")  # what makes two machines of one speed


@dataclass(frozen=True)
class Speed:
    """Seconds that reading some prompts and answering them took, and how many tokens were read."""

    tokens: int
    reading: float
    answering: float

    @property
    def seconds(self) -> float:
        return self.reading + self.answering

    def words(self) -> str:
        return (
            f"{self.tokens / self.reading:.0f} tokens a second read; {N} prompts answered with up to "
            f"{STEPS} tokens in {self.answering:.1f} s"
        )


def measured_speed(model: Model, tier: str = "embedded") -> Speed:
    """How long harmless prompts take at best, of two times: what else runs on the machine only slows."""
    table = data.prompts("validation", source="harmless", n=N, tier=tier)
    prompts = chat(model, data.without_final_punctuation(table))
    which, read, answered = {"resid": range(model.n_layers + 1)}, [], []
    for _ in range(2):
        started = time.perf_counter()
        reads.collect_rows(model, prompts, ["t_inst", "t_post"], which)
        read.append(time.perf_counter() - started)
        decode.generate_rows(model, rows_of(prompts), decode.Decoding(STEPS))
        answered.append(time.perf_counter() - started - read[-1])
    return Speed(sum(len(p.ids) for p in prompts), min(read), min(answered))


def _runs() -> dict[str, list[dict]]:
    """{notebook's number: the runs with default parameters whose results are here}, smoke left out."""
    numbers = {path.stem: number for number, path in params.notebooks().items()}
    found: dict[str, list[dict]] = {}
    for file in sorted(RESULTS.glob("*/*/*/run.json")):
        if file.parts[-4] == "smoke" or file.parent.name not in numbers:
            continue
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            if {"duration_s", "machine", "device", "model"} <= set(about):
                found.setdefault(numbers[file.parent.name], []).append(about)
        except ValueError:
            continue
    return found


def _subject(about: dict) -> str:
    """The model of a run, or the second of its pair."""
    return about["model"]["name"].rpartition("--vs--")[2]


def estimates(model: Model, speed: Speed, load: Callable[[str], Model]) -> list[str]:
    """One line a notebook, and one that says how they were made. `load` loads a registered model as `model`
    was.

    A run on another machine tells nothing about this one: how its speed compares is recorded nowhere.
    """
    here, size = runner.environment()["machine"], 2e-9 * model.module.num_parameters()
    disk = {name: entry.disk_gb for name, entry in (MODELS | RECIPES).items()}
    slower = cache(lambda name: speed.seconds / measured_speed(load(name)).seconds)
    lines = []
    for number, runs in sorted(_runs().items()):
        alike = [
            run
            for run in runs
            if run["device"] == model.device.type and all(run["machine"].get(k) == here[k] for k in SAME)
        ]
        mine = [run for run in alike if _subject(run) == shown_name(model.name)]
        known = [run for run in alike if (name := _subject(run)) in disk and not runner.missing([name])]
        if mine:
            told = f"about {took.minutes(mine[0])}, which it took in the run whose results are here"
        elif known:
            run = min(known, key=lambda run: abs(math.log(disk[_subject(run)] / size)))
            name, minutes = _subject(run), took.minutes(run)
            scaled = math.ceil(slower(name) * minutes)
            told = f"about {scaled}, {slower(name):.1f} times the {minutes} of {name}"
        else:
            name, machine = runs[0]["model"]["name"], runs[0]["machine"]
            where = f"{machine.get('processor')}, {machine.get('cores')} cores"
            told = f"not known for this machine; {took.minutes(runs[0])} with {name} on {where}"
        lines.append(f"{number}: {told}")
    said = (
        "scaled by the seconds that the same short reading and answering takes with each model, here and "
        "now; a guess within a factor of two, for parts of a notebook do not depend on its model, and too "
        "little where a run found parts in the cache"
    )
    return [*lines, said] if lines else ["no run is here to tell it from"]
