"""``make doctor``: whether a model fits the notebooks. Its values against plain PyTorch, its chat template,
what it refuses, what it takes, and which claims it will leave uninformative.
"""

import textwrap
import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from transformers.utils.logging import disable_progress_bar

from refusal import data
from refusal.base.errors import UserError
from refusal.base.took import peak_memory
from refusal.measure import behaviour, stats
from refusal.measure.judge import OUTCOMES
from refusal.model import layout, loading
from refusal.model.names import shown_name
from refusal.report.outlook import Asked, by_preconditions
from refusal.report.rules import read_claims
from refusal.run import minutes, params, runner
from refusal.run.parts import parts_of_findings
from refusal.run.values import Check, compare
from refusal.trace.prompts import Prompt, chat, no_template, plain

N, N_VALUES = 16, 4  # prompts per class that are answered, and prompts that are compared


def main(parameters: dict) -> None:
    """Print all that is asked about the model that a notebook's checked `parameters` name. Raises UserError
    where it cannot be loaded, or where its values are wrong.
    """
    name, tier = parameters["MODEL"], parameters["TIER"]
    disable_progress_bar()
    for line in runner.missing([name]):
        print(line, flush=True)
    print(f"loading {shown_name(name)}; what follows takes a minute or two", flush=True)
    options = {key.lower(): parameters[key] for key in ("DEVICE", "DTYPE", "BATCH_TOKENS", "DATE")}
    model = _load(name, options | {"template": parameters["TEMPLATE"] or None})
    tables = {
        "harmful": data.prompts("validation", label="harmful", n=N, tier=tier),
        "harmless": data.prompts("validation", source="harmless", n=N, tier=tier),
    }
    tables = {label: data.without_final_punctuation(table) for label, table in tables.items()}
    why = no_template(model)
    make = chat if not why else lambda model, table: plain(model, list(table.text))
    prompts = {label: make(model, table) for label, table in tables.items()}
    _title("layout")
    _say(_layout(model))
    _title("chat template")
    _say([why] if why else _marked(model, prompts["harmless"][0]))
    _title("values")
    checks = compare(model, prompts["harmless"][:N_VALUES])
    _say(_values(model, checks))
    answers = None
    if not why:
        _title("refusals")
        answers = behaviour.behaviour(model, prompts["harmful"] + prompts["harmless"])
        _say(_refusals(answers))
    _title("memory")
    _say(_memory(model))
    if not why:
        _title("speed")
        speed = minutes.measured_speed(model, tier)
        _say([speed.words()])
        if tier != "smoke":  # no notebook takes a constructed model for its results
            _title("minutes per notebook")
            _say(minutes.estimates(model, speed, lambda other: _load(other, options)))
    _title("claims that will be uninformative")
    _say(_outlook(model, tier, tables, answers, why))
    if wrong := [check.what for check in checks if not check.fits]:
        raise UserError(
            f"the values of {shown_name(name)} are not those of plain PyTorch: {', '.join(wrong)}",
            "no notebook can be trusted on it here; DTYPE=float32 tells rounding from a fault",
        )
    print("\nit fits: its values are those of plain PyTorch")


def _load(name: str, options: dict) -> loading.Model:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*one coordinate holds")  # it has a line of its own below
        return loading.load(name, **options)


def _title(title: str) -> None:
    """Before what takes a while to find out."""
    print(f"\n{title}", flush=True)


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(textwrap.fill(line, 110, initial_indent="  ", subsequent_indent="    "), flush=True)


def _layout(model: loading.Model) -> list[str]:
    size, loud = model.module.num_parameters() / 1e9, model.loudest_share
    limit = f", at most {model.max_positions} tokens" if model.max_positions else ""
    times = f", times {model.residual_factor:g}" if model.residual_factor != 1 else ""
    warn = "; raw differences of means mostly measure it" if loud > layout.LOUD else ""
    return [
        f"{shown_name(model.name)}: {type(model.module).__name__}, {size:.2f} billion parameters{limit}",
        f"{model.n_layers} blocks, {model.n_heads} heads of {model.d_head}, d_model {model.d_model}, "
        f"{_plain(model.dtype)} on {model.device.type}, {model.batch_tokens} tokens a pass",
        f"what a block adds to the residual stream{times}: {model.attn_writes} and {model.mlp_writes}",
        f"loudest coordinate: {loud:.0%} of the last residual stream's squared norm{warn}",
    ]


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _values(model: loading.Model, checks: Sequence[Check]) -> list[str]:
    lines = [f"{c.what}: {c.difference:.1e}, {'fits' if c.fits else 'WRONG'}" for c in checks]
    about = (
        f"largest relative difference from plain PyTorch hooks on one prompt at a time, of {N_VALUES} prompts"
    )
    return [f"{about}; up to {layout.tolerance(model.dtype):g} is rounding in {_plain(model.dtype)}", *lines]


def _marked(model: loading.Model, prompt: Prompt) -> list[str]:
    """One prompt as its tokens read, two of them between marks."""
    said = lambda ids: model.tokenizer.decode(ids).replace("\n", "\\n")
    a, b, ids = prompt.t_inst, prompt.t_post, prompt.ids
    last = f"{said(ids[a + 1 : b])}⟦{said(ids[b:])}⟧" if b > a else ""
    tell = lambda where, k: (
        f"{where}: token {k + 1} of {len(ids)}, {model.tokenizer.decode(ids[k : k + 1])!r}"
    )
    return [
        f"{said(ids[:a])}⟦{said(ids[a : a + 1])}⟧{last}",
        f"{tell('t_inst', a)}; {tell('t_post', b)}",
    ]


def _refusals(answers: pd.DataFrame) -> list[str]:
    lines = []
    for label, part in answers.groupby("label"):
        shares = {kind: stats.rate(part.outcome == kind) for kind in OUTCOMES}
        told = [
            f"{kind} {r.value:.0%} [{r.ci95[0]:.0%}, {r.ci95[1]:.0%}]"
            for kind, r in shares.items()
            if r.value
        ]
        lines.append(f"{label}, n {len(part)}: {', '.join(told)}")
    calm = answers[answers.label == "harmless"].iloc[0]
    lines.append(f"the first words of a harmless answer: {calm.answer[:60]!r}, judged {calm.outcome}")
    return [
        *lines,
        "answers of 24 tokens to validation prompts, by the package's judge; 95 % Wilson intervals",
    ]


def _memory(model: loading.Model) -> list[str]:
    peak = peak_memory(model.device)
    return [f"peak memory so far: {', '.join(f'{v / 1e9:.1f} GB ({k})' for k, v in peak.items())}"]


def _outlook(
    model: loading.Model, tier: str, tables, answers: pd.DataFrame | None, why: str | None
) -> list[str]:
    """By notebook how many claims, and the reasons."""
    books = {
        number: read_claims(path.with_suffix(".claims.toml")) for number, path in params.notebooks().items()
    }
    claims = {id: claim for some in books.values() for id, claim in some.items()}
    if answers is None:
        reasons = dict.fromkeys(claims, why)
    else:
        refused = stats.rate(answers.outcome[answers.label == "harmful"] == "refusal")
        reasons = by_preconditions(claims, refused)
        for part in parts_of_findings("doctor"):
            reasons |= part.uninformative(Asked(model, tier, tables, answers, claims))
    lines = []
    for number, some in books.items():
        mine = [reasons[id] for id in some if id in reasons]
        for reason in dict.fromkeys(mine):
            lines.append(f"{number}: {mine.count(reason)} of {len(some)} claims: {reason}")
        if not mine:
            lines.append(f"{number}: none of {len(some)} claims, as far as is known before a run")
    return lines
