"""What the Makefile's targets call: ``python -m refusal.run.cli TARGET``. Parameters come as make variables,
through the environment.
"""

import io
import os
import sys
import textwrap

from refusal.base.errors import ParameterError, UserError, nearest

MAKE_ONLY = ("PYTHON", "PY", "VENV")
PREFIX = "COMPANION_PARAM_"
OPTIONS = {  # make variables that are no notebook's parameter: the target each goes with, and what it is
    "RUN": ("reproduce", "path of a run.json: repeat that run, and say what of its environment differs"),
    "VERDICT": ("claims", 'only these: VERDICT="not replicated"'),
    "PLAN": ("claims", "1: list every claim with its rule and the items it needs, without running anything"),
    "FIG": ("figures", "only this one: FIG=NN/figure, or FIG=model/NN/figure"),
    "STYLE": ("figures", "paper or slide: slides go beside the others, figure.slide.png [paper]"),
    "FORMAT": ("figures", "png, svg or pdf: beside the others in figures/tier/model/notebook/ [png]"),
}
STOPPED = 130  # the exit status of what Ctrl-C ended


def make_variables() -> dict[str, str]:
    """{name: what it is [default]} of the make variables that any notebook takes: the parameters that it has
    in capitals.
    """
    from refusal.run.params import notebooks, parameters_of

    found: dict[str, str] = {}
    for path in notebooks().values():
        for name, p in parameters_of(path).items():
            if name.isupper():
                found.setdefault(name, p.help + (f" [{p.default}]" if str(p.default) else ""))
    return found | {"P": 'further notebook parameters: P="alpha=2 layer_step=1"'}


def further_parameters() -> set[str]:
    """The notebooks' parameters that are no make variables."""
    from refusal.run.params import notebooks, parameters_of

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
    from refusal.run import params, runner

    if run := given_options("nb" if only else "reproduce").get("RUN"):
        if other := given_parameters():
            raise ParameterError(
                f"RUN brings its own parameters, {', '.join(other)} cannot be set beside it",
                "leave them out, or give all parameters yourself and no RUN",
            )
        from refusal.run.repeat import repeat

        return repeat(run)
    books = params.notebooks()
    if only is not None and only not in books:
        raise ParameterError(f"there is no notebook {only}", nearest(only, books))
    chosen = {only: books[only]} if only else books
    given = given_parameters()
    known = {name for path in chosen.values() for name in params.parameters_of(path)}
    subjects = {
        path: [n for n, p in params.parameters_of(path).items() if p.subject] for path in chosen.values()
    }
    if any(len(names) == 1 for names in subjects.values()):
        known.add("MODEL")  # stands in for the one model of a notebook that calls it otherwise
    for name in given:
        if name not in known:
            raise ParameterError(f"no notebook of this run has a parameter {name!r}", nearest(name, known))
    plan = []
    for path in chosen.values():
        own = params.parameters_of(path)
        mine = {k: v for k, v in given.items() if k in own}
        if "MODEL" in given and len(subjects[path]) == 1:
            mine.setdefault(subjects[path][0], given["MODEL"])
        plan.append((path, params.resolve(path, mine)))
    if len(plan) > 1:
        needed = runner.missing(
            [name for path, values in plan for part in params.models_of(path, values) for name in part]
        )
        print(
            "".join(f"{line}\n" for line in needed), end="", flush=True
        )  # what is to come, before anything starts
    for path, values in plan:  # all parameters are checked before the first notebook starts
        runner.run(path, values)
    if only is None:
        claims(tier=plan[0][1]["TIER"])


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

    for name, value, choices in (("TIER", tier, TIERS), ("VERDICT", verdict, get_args(Verdict))):
        if value is not None and value not in choices:
            raise ParameterError(f"{name}={value} is not known", nearest(value, choices))
    ledger = [entry for entry in read_ledger(RESULTS) if tier in (None, entry[0])]
    if not ledger:
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
    width = _width()
    for group in dict.fromkeys((tier, model) for tier, model, _ in ledger):
        records = [r for tier, model, r in ledger if (tier, model) == group]
        made = (
            " (constructed model: tests the instrument, says nothing about a paper)"
            if records[0].evidence == "constructed"
            else ""
        )
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


def _width() -> int:
    return min(120, max(60, os.get_terminal_size().columns if sys.stdout.isatty() else 120))


def plan() -> None:
    """Print every claim as it stands before a run: rule, paper's value, items by default and items needed."""
    from refusal.report.power import needed, planned
    from refusal.report.render import paper_value
    from refusal.report.rules import read_claims
    from refusal.run.params import notebooks, parameters_of

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
    from refusal.model.sources import recipe_folder
    from refusal.run.runner import missing

    folder = cache_dir() / "models"
    print(f"models in {folder}")
    for name in [*MODELS, *RECIPES]:
        needed = missing([name])
        here = recipe_folder(name) if name in RECIPES else folder / f"{name}-{MODELS[name].file.sha256[:12]}"
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
        found, problems = pictures.chosen(found, asked["FIG"]), []
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
    """Write the results tables of README.md from the ledger."""
    from refusal.base.files import ROOT, write_text

    path = ROOT / "README.md"
    write_text(path, with_results(path.read_text(encoding="utf-8")))


def with_results(text: str) -> str:
    """The README's text with tables of the committed ledger, and with what each finding says of its records
    (``findings/*/readme.py``).
    """
    from refusal.report.render import readme_with_results
    from refusal.run.parts import parts_of_findings

    return readme_with_results(text, [module.paragraph for module in parts_of_findings("readme")])


def help_() -> None:
    """One line per target, then the parameters with their defaults."""
    from refusal.base.machine import slower
    from refusal.model.registry import MODELS, RECIPES, TIERS
    from refusal.run.params import notebooks, parameters_of

    print(
        textwrap.dedent("""\
        Results
          make hello        a first figure and a few judged answers on the 135M model, in three minutes
          make reproduce    every notebook, end to end; then the ledger and the figures; RUN=… repeats one run
          make nb-NN        one notebook, by its number
          make claims       print the ledger: claim, paper's value, value here, controls, verdict; of one
                            MODEL, TIER or VERDICT. PLAN=1: every claim before a run, with the items it needs
          make models       what the cache holds, and what it takes to get the rest
          make figures      redraw what changed of the figures, from saved results; no model, no network
          make lab          JupyterLab on the notebooks
        Development
          make new          the files of a new finding: NN=11 PAPER=2501.01234 NAME=short_name
          make test         the whole test suite        make lint    ruff, types, no outputs in notebooks
          make test-numbers the tests of numbers, as on a processor of the other kind
          make readme       the README's tables, from the committed ledger
          make bench        costs as ratios, measured side by side
          make clean        remove results and computed caches
          make distclean    also the environment and downloaded files

        Parameters, for every target that runs notebooks: make reproduce MODEL=… SEED=…""")
    )
    for name, about in make_variables().items():
        print(f"  {name:<13} {about}")
    for name, (target, about) in OPTIONS.items():
        print(f"  {name:<13} make {target}, {about}")
    for number, path in notebooks().items():
        further = {n: p for n, p in parameters_of(path).items() if not n.isupper()}
        print(f'  further parameters of notebook {number}, in P="…":')
        for name, p in further.items():
            print(f"    {name:<17} {p.help} [{p.default}]")
    print("Models")
    for entry in MODELS.values():
        print(f"  {entry.name:<29} {entry.about}; {entry.disk_gb} GB on disk" + _times(entry.name))
    for recipe in RECIPES.values():
        print(
            f"  {recipe.name:<29} {recipe.base} {recipe.about}; {recipe.disk_gb} GB on disk, made here in "
            f"about {recipe.minutes} min" + _times(recipe.name)
        )
    if slower():
        print(f"  times: on processors with bfloat16 arithmetic{slower()}")
    print("Tiers")
    for name, about in TIERS.items():
        print(f"  {name:<13} {about}")


def _times(model: str) -> str:
    """What the runs whose results are here took on a model."""
    from refusal.base.files import RESULTS
    from refusal.run.runner import about_minutes

    took = {
        f.name: about_minutes(f) for f in sorted(RESULTS.glob(f"embedded/{model}/*")) if "@" not in f.name
    }
    found = ", ".join(f"{name.partition('_')[0]} {minutes} min" for name, minutes in took.items() if minutes)
    return f"; notebooks took: {found}" if found else ""


def clean() -> None:
    """Remove results, figures that are not committed, and what was computed; committed files stay as they
    are.
    """
    import shutil
    import subprocess

    from refusal.base.files import ROOT, cache_dir

    try:
        subprocess.run(
            ["git", "clean", "-qfdX", "results", "figures"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise UserError(
            f"git cannot clean results and figures: {reason}",
            "without git, or the right to delete them, remove what is in them by hand",
        ) from None
    shutil.rmtree(cache_dir() / "computed", ignore_errors=True)


def new() -> None:
    """The files of a new finding, from NN, PAPER and NAME."""
    from refusal.run.new import new_finding

    names = os.environ.get("COMPANION_GIVEN", "").split()
    new_finding({name: os.environ.get(PREFIX + name, "") for name in names if name not in MAKE_ONLY})


def hello() -> None:
    """The newcomer's first three minutes."""
    from refusal.run.hello import main

    main()


TARGETS = {
    "reproduce": reproduce,
    "nb": reproduce,
    "claims": ledger,
    "figures": figures,
    "readme": readme,
    "models": models,
    "help": help_,
    "clean": clean,
    "hello": hello,
    "new": new,
}


def _run(target: str, *rest: str) -> None:
    if target not in TARGETS:
        raise ParameterError(f"unknown target {target!r}", nearest(target, TARGETS))
    if target in ("figures", "hello", "clean", "readme", "models"):
        given_parameters()
        given_options(target)
        takes_no_parameters(target)
    TARGETS[target](*rest)


def main(argv: list[str]) -> int:
    """Run one target; a UserError becomes a message and an exit status, without a traceback."""
    from refusal.base.files import disk_errors

    try:
        with disk_errors():
            _run(*(argv or ["help"]))
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
