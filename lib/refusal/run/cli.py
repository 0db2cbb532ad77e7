"""What the Makefile's targets call: ``python -m refusal.run.cli TARGET``. Parameters come as make variables,
through the environment.
"""

import io
import json
import os
import sys
import textwrap

from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.files import disk_errors
from refusal.run.declared import notebooks, parameters_of
from refusal.run.help import make_variables, print_help

MAKE_ONLY = ("PYTHON", "PY", "VENV")
PREFIX = "COMPANION_PARAM_"
OPTIONS = {  # make variables that are no notebook's parameter: the target each goes with, and what it is
    "RUN": ("reproduce", "path of a run.json: repeat that run, and say what of its environment differs"),
    "VERDICT": ("claims", 'only these: VERDICT="not replicated"'),
    "PLAN": ("claims", "1: list every claim with its rule and the items it needs, without running anything"),
    "SWEEP": ("sweep", "path of a YAML file: a notebook, its claims, and the parameters to go through"),
    "FIG": ("figures", "only this one: FIG=NN/figure, or FIG=model/NN/figure"),
    "STYLE": ("figures", "paper or slide: slides go beside the others, figure.slide.png [paper]"),
    "FORMAT": ("figures", "png, svg or pdf: beside the others in figures/tier/model/notebook/ [png]"),
}
STOPPED = 130  # the exit status of what Ctrl-C ended


def further_parameters() -> set[str]:
    """The notebooks' parameters that are no make variables."""
    return {name for path in notebooks().values() for name in parameters_of(path) if not name.isupper()}


def given_parameters() -> dict[str, str]:
    """The parameters that the user set. Raises ParameterError for a make variable that is none, with the
    nearest name.
    """
    known = make_variables()
    for name in os.environ.get("COMPANION_GIVEN", "").split():
        if name not in known and name not in MAKE_ONLY and name not in OPTIONS:
            raise ParameterError(
                f"unknown parameter {name!r}",
                f'a notebook\'s further parameters go into P="…": P="{name.lower()}=…"'
                if name.lower() in further_parameters()
                else nearest(name, [*known, *OPTIONS]) + '; a notebook\'s further parameters go into P="…"',
            )
    values = {name: os.environ[PREFIX + name] for name in known if os.environ.get(PREFIX + name, "") != ""}
    from refusal.run.params import parse_further

    return {k: v for k, v in values.items() if k != "P"} | parse_further(values.get("P", ""))


def takes_no_parameters(target: str) -> None:
    """Raises ParameterError where one was given on the command line."""
    if named := [n for n in os.environ.get("COMPANION_GIVEN", "").split() if n in make_variables()]:
        raise ParameterError(
            f"make {target} takes no {named[0]}",
            "parameters are for the targets that run notebooks, and claims",
        )


def given_options(target: str) -> dict[str, str]:
    """Those of `OPTIONS` that the user set. Raises ParameterError for one that goes with another target."""
    given = {name: os.environ[PREFIX + name] for name in OPTIONS if os.environ.get(PREFIX + name, "") != ""}
    for name in given:
        if OPTIONS[name][0] != target:
            raise ParameterError(f"{name} goes with make {OPTIONS[name][0]}", OPTIONS[name][1])
    return given


def reproduce(only: str | None = None) -> None:
    """Every notebook, or one, with what was given; then the ledger and the figures. With RUN: that run."""
    if run := given_options("nb" if only else "reproduce").get("RUN"):
        if other := given_parameters():
            raise ParameterError(
                f"RUN brings its own parameters, {', '.join(other)} cannot be set beside it",
                "leave them out, or give all parameters yourself and no RUN",
            )
        from refusal.run.repeat import repeat

        return repeat(run)
    from refusal.run import params  # the runner is imported when all parameters are right: it takes seconds

    books = notebooks()
    if only is not None and only not in books:
        raise ParameterError(f"there is no notebook {only}", nearest(only, books))
    chosen = {only: books[only]} if only else books
    given = given_parameters()
    known = {name for path in chosen.values() for name in parameters_of(path)}
    subjects = {path: [n for n, p in parameters_of(path).items() if p.subject] for path in chosen.values()}
    if any(len(names) == 1 for names in subjects.values()):
        known.add("MODEL")  # stands in for the one model of a notebook that calls it otherwise
    for name in given:
        if name not in known:
            raise ParameterError(f"no notebook of this run has a parameter {name!r}", nearest(name, known))
    plan = []
    for path in chosen.values():
        own = parameters_of(path)
        mine = {k: v for k, v in given.items() if k in own}
        if "MODEL" in given and len(subjects[path]) == 1:
            mine.setdefault(subjects[path][0], given["MODEL"])
        plan.append((path, params.resolve(path, mine)))
    from refusal.base.files import ROOT
    from refusal.base.took import about_minutes
    from refusal.report.runs import page_of
    from refusal.run import runner

    if len(plan) > 1:
        minutes = {path.stem: about_minutes(runner.place(path, values)) for path, values in plan}
        if known := [m for m in minutes.values() if m]:
            of = "" if len(known) == len(plan) else f" for {len(known)} of {len(plan)} notebooks"
            print(f"about {sum(known)} minutes{of} from nothing, as they took before")
        needed = runner.missing(
            [name for path, values in plan for part in params.models_of(path, values) for name in part]
        )
        # what is to come, before anything starts
        print("".join(f"{line}\n" for line in needed), end="", flush=True)
    for path, values in plan:  # all parameters are checked before the first notebook starts
        runner.run(path, values)
    if only is None:
        claims(tier=plan[0][1]["TIER"])
    print("\nresults:", *(f"  {runner.place(*one).relative_to(ROOT)}" for one in plan), sep="\n")
    if plan[0][1]["TIER"] != "smoke":
        print("make site shows them as pages:")
        print(*(f"  site/{page_of(runner.place(*one))}.html" for one in plan), sep="\n")


def claims(tier: str | None = None, model: str | None = None, verdict: str | None = None) -> None:
    """Print the ledger of every run that is here, or of one tier, one model and one verdict. `model` is a
    model's name, or its folder's. Raises ParameterError for a filter that can fit nothing.
    """
    from typing import get_args

    from refusal.base.files import RESULTS
    from refusal.model.names import folder_name
    from refusal.model.registry import TIERS
    from refusal.report.render import read_ledger, table
    from refusal.report.rules import Verdict

    verdict = verdict and verdict.replace("_", " ")
    for name, value, choices in (("TIER", tier, TIERS), ("VERDICT", verdict, get_args(Verdict))):
        if value is not None and value not in choices:
            raise ParameterError(f"{name}={value} is not known", nearest(value, choices))
    ledger, problems = read_ledger(RESULTS)
    ledger = [entry for entry in ledger if tier in (None, entry[0])]
    if not ledger:
        print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
        raise UserError("the ledger is empty", "run `make reproduce` first")
    if model is not None:  # runs of a pair, and those with other parameters, are runs of the model too
        names = {m: {m, m.partition(" @ ")[0], *m.partition(" @ ")[0].split("--vs--")} for _, m, _ in ledger}
        ledger = [entry for entry in ledger if {model, folder_name(model)} & names[entry[1]]]
        if not ledger:
            raise ParameterError(
                f"no run here is of MODEL={model}", nearest(model, set().union(*names.values()))
            )
    ledger = [entry for entry in ledger if verdict in (None, entry[2].verdict)]
    if not ledger:
        print(f"no claim is {verdict} here")
        return
    width = _width()
    for group in dict.fromkeys((tier, model) for tier, model, _ in ledger):
        records = [r for tier, model, r in ledger if (tier, model) == group]
        constructed = all(r.evidence == "constructed" for r in records)
        made = " (constructed: tests the instrument, says nothing about a paper)" if constructed else ""
        print(f"\n{group[1]} · tier {group[0]}{made}")
        for record, (claim, paper, here, controls, _) in zip(records, table(records), strict=True):
            print(
                "\n".join(
                    textwrap.wrap(f"{record.verdict.upper():<15} {claim}", width, subsequent_indent=" " * 16)
                )
            )
            for line in (f"paper: {paper}  |  here: {here}  |  controls: {controls}", record.reason):
                print(
                    "\n".join(textwrap.wrap(line, width, initial_indent=" " * 16, subsequent_indent=" " * 16))
                )
    verdicts = [r.verdict for _, _, r in ledger]
    print("\n" + ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)))
    if older := _older():
        print(f"{len(older)} runs are of notebooks that have changed since: {', '.join(older)}")
    for line in problems:
        print(line, file=sys.stderr)
    if problems:
        raise UserError(f"{len(problems)} left out of the ledger", "see above")


def _older() -> list[str]:
    """The runs whose notebook has changed since."""
    from refusal.base.files import NOTEBOOKS, RESULTS, notebook_hash

    older = []
    for path in sorted(RESULTS.glob("*/*/*/run.json")):
        notebook = NOTEBOOKS / f"{path.parent.name.partition('@')[0]}.ipynb"
        try:
            of = json.loads(path.read_text(encoding="utf-8"))["notebook_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if notebook.exists() and of != notebook_hash(notebook):
            older.append("/".join(path.parts[-4:-1]))
    return older


def _width() -> int:
    return min(120, max(60, os.get_terminal_size().columns if sys.stdout.isatty() else 120))


def plan() -> None:
    """Print every claim as it stands before a run: rule, paper's value, items by default and items needed."""
    from refusal.report.power import needed, planned
    from refusal.report.render import paper_value
    from refusal.report.rules import read_claims

    width, total, decided = _width(), 0, 0
    for number, path in notebooks().items():
        defaults = {name: p.default for name, p in parameters_of(path).items()}
        print(f"\nnotebook {number}")
        for claim in read_claims(path.with_suffix(".claims.toml")).values():
            items = "n: not planned"
            if claim.plan:
                n, enough, of = planned(claim.plan.n, defaults), needed(claim), claim.plan.of
                source = f" ({claim.plan.n})" if isinstance(claim.plan.n, str) else ""
                decided += n >= enough
                items = (
                    f"n: {n} by default{source}, {enough} needed where {of or 'the value'} lies "
                    f"{claim.plan.smallest:g} beyond its bar"
                )
                items += f"; undecided: {claim.plan.undecided}" if claim.plan.undecided else ""
            total += 1
            print(textwrap.fill(f"{claim.id}: {claim.statement}", width, subsequent_indent=" " * 4))
            for line in (f"rule: {claim.rule.words()}", f"paper: {paper_value(claim)}", items):
                print(textwrap.fill(line, width, initial_indent=" " * 4, subsequent_indent=" " * 8))
    print(f"\n{total} claims; the defaults decide {decided} at the smallest effect worth seeing")


def ledger() -> None:
    """`claims`, filtered as the user's make variables say, or the `plan`."""
    asked = given_parameters() | given_options("claims")
    if other := [name for name in asked if name not in ("MODEL", "PLAN", "TIER", "VERDICT")]:
        raise ParameterError(f"make claims takes no {other[0]}", "valid: MODEL, PLAN, TIER, VERDICT")
    if (only := asked.pop("PLAN", "0")) not in ("0", "1"):
        raise ParameterError(f"PLAN={only} is not known", "use PLAN=1, or leave it out")
    if only == "0":
        return claims(**{name.lower(): value for name, value in asked.items()})
    if asked:
        raise ParameterError(
            f"PLAN lists every claim, {', '.join(asked)} cannot be set beside it", "leave it out"
        )
    plan()


def models() -> None:
    """What the cache holds, and what it would take to get the rest."""
    from refusal.base.files import cache_dir
    from refusal.model.registry import MODELS, RECIPES
    from refusal.run.runner import missing, place_of

    print(f"models in {cache_dir() / 'models'}")
    for name in [*MODELS, *RECIPES]:
        needed, here = missing([name]), place_of(name)
        size = (
            sum(path.stat().st_size for path in here.rglob("*") if path.is_file()) / 1e9
            if here.exists()
            else 0
        )
        print(
            f"  {name:<29} "
            + (
                f"here, {size:.2f} GB"
                if not needed
                else "not here; " + "; then ".join(n.partition(": ")[2] for n in needed)
            )
        )
    computed = [path.stat().st_size for path in (cache_dir() / "computed").glob("*")]
    print(
        f"computed results: {len(computed)} files, {sum(computed) / 1e9:.2f} GB (`make clean` removes them)"
    )


def figures() -> None:
    """Draw what changed of the figures of saved results, or of those that FIG names, in STYLE and FORMAT."""
    from refusal.base.files import FIGURES
    from refusal.report import gallery, pictures

    asked = given_options("figures")
    style, format = asked.get("STYLE", "paper"), asked.get("FORMAT", "png")
    pictures.check(style, format)
    found, problems = pictures.saved(pictures.runs())
    if "FIG" in asked:
        try:
            found, problems = pictures.chosen(found, asked["FIG"]), []
        except ParameterError as error:  # it may be one of a run that cannot be read
            raise ParameterError(error.what, "; ".join([error.hint.rstrip("?"), *problems])) from None
    drawn = pictures.draw(found, style, format)
    for figure in found if "FIG" in asked else drawn:
        print(figure.file(style, format).relative_to(FIGURES.parent))
    print(f"{len(drawn)} drawn, {len(found) - len(drawn)} stand as they are")
    gallery.update()
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if problems:
        raise UserError(
            f"{len(problems)} left out of the figures", "run those notebooks again, or remove their folders"
        )


def readme() -> None:
    """Write results/README.md and the README's first screen from the committed ledger."""
    from refusal.base.files import ROOT, write_text

    for path, text in pages((ROOT / "README.md").read_text(encoding="utf-8")).items():
        write_text(ROOT / path, text)


def pages(text: str) -> dict[str, str]:
    """{path: text} of the pages that are made from the committed ledger; `text` is the README's as it
    stands.
    """
    from refusal.base.files import RESULTS
    from refusal.report.pages import Finding, between, first_screen, ledger_page
    from refusal.report.render import read_ledger
    from refusal.run.declared import question
    from refusal.run.params import resolve
    from refusal.run.parts import parts_of_findings
    from refusal.run.runner import place

    said = {
        module.__name__.split(".")[-2].removeprefix("f"): module for module in parts_of_findings("readme")
    }
    default = lambda path: place(path, resolve(path, {"TIER": "embedded"})).parent
    findings = {
        n: Finding(
            path.stem,
            question(path),
            (default(path).parent.name, default(path).name),
            getattr(said.get(n), "HEADLINES", {}),
            getattr(said.get(n), "paragraph", None),
        )
        for n, path in notebooks().items()
    }
    ledger, problems = read_ledger(RESULTS, tracked=True)
    if problems:  # a page without a run would say other things
        raise UserError(f"committed runs cannot be read, and nothing was written: {problems[0]}", "")
    ledger = [entry for entry in ledger if entry[0] != "smoke"]
    return {
        "results/README.md": ledger_page(ledger, findings),
        "README.md": between(text, first_screen(ledger, findings, _picture(ledger, findings, said))),
    }


def _picture(ledger, findings, said):
    """The first picture that a finding has of a released model."""
    for n, module in said.items():
        runs = dict.fromkeys((t, m) for t, m, r in ledger if r.evidence == "released" and " @ " not in m)
        for tier, model in runs if hasattr(module, "picture") else ():
            records = [r for t, m, r in ledger if (t, m) == (tier, model)]
            folder = f"figures/{tier}/{model}/{findings[n].stem}"
            if found := module.picture(folder, model, records):
                return found
    return None


def help_(topic: str | None = None) -> None:
    """One line per target and parameter; with a topic, one notebook's own parameters or the models."""
    print_help(topic, OPTIONS)


def new() -> None:
    """The files of a new finding, from NN, PAPER and NAME."""
    from refusal.run.new import new_finding

    names = os.environ.get("COMPANION_GIVEN", "").split()
    new_finding({name: os.environ.get(PREFIX + name, "") for name in names if name not in MAKE_ONLY})


def doctor() -> None:
    """Whether one model fits the notebooks."""
    from refusal.run import params

    given_options("doctor")
    given, taken = (
        given_parameters(),
        ("MODEL", "TIER", "DEVICE", "DTYPE", "BATCH_TOKENS", "TEMPLATE", "DATE"),
    )
    if other := [name for name in given if name not in taken]:
        raise ParameterError(f"make doctor takes no {other[0]}", "valid: " + ", ".join(taken))
    notebook = next(p for p in params.notebooks().values() if set(taken) <= params.parameters_of(p).keys())
    values = params.resolve(notebook, given)
    from refusal.run.doctor import main

    main(values)


def sweep() -> None:
    """Many runs of one notebook, from a file."""
    file = given_options("sweep").get("SWEEP")
    if other := list(given_parameters()):
        raise ParameterError(f"make sweep takes no {other[0]}", "parameters stand in the file, under base")
    if file is None:
        raise ParameterError("make sweep needs a file", "SWEEP=file.yaml; docs/sweep.md shows one")
    from refusal.run.sweep import sweep as run_all

    run_all(file)


def hello() -> None:
    """The newcomer's first three minutes."""
    from refusal.run.hello import main

    main()


def site() -> None:
    """Notebooks, figures and ledger as a static site."""
    from refusal.run.site import build

    build()


TARGETS = {
    "reproduce": reproduce,
    "nb": reproduce,
    "claims": ledger,
    "figures": figures,
    "readme": readme,
    "models": models,
    "help": help_,
    "hello": hello,
    "new": new,
    "doctor": doctor,
    "sweep": sweep,
    "site": site,
}


def _run(target: str, *rest: str) -> None:
    if target not in TARGETS:
        raise ParameterError(f"unknown target {target!r}", nearest(target, TARGETS))
    if target in ("figures", "hello", "readme", "models", "site"):
        given_parameters()
        given_options(target)
        takes_no_parameters(target)
    TARGETS[target](*rest)


def main(argv: list[str]) -> int:
    """Run one target; a UserError becomes a message and an exit status, without a traceback."""
    try:
        with disk_errors():
            _run(*argv or ["help"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(
            "\nstopped; what was computed is kept, and the same command goes on from there", file=sys.stderr
        )
        return STOPPED
    except BrokenPipeError:  # `make models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say_on_any_terminal() -> None:
    """Print a question mark for what a terminal cannot show (``PYTHONIOENCODING=ascii``, say) and go on; the
    processes that are started do the same.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ["PYTHONIOENCODING"] = f"{getattr(sys.stdout, 'encoding', None) or 'utf-8'}:replace"


if __name__ == "__main__":
    _say_on_any_terminal()
    status = main(sys.argv[1:])
    # all is cleaned up by now; what a stopped kernel's tasks still have to say would only bury the message
    if status == STOPPED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
