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
STOPPED = 130  # the exit status of what Ctrl-C ended


def make_variables() -> dict[str, str]:
    """{name: what it is [default]} of the make variables that any notebook takes: the parameters that it has
    in capitals.
    """
    from refusal.run.params import parameters_of
    from refusal.run.runner import notebooks

    found: dict[str, str] = {}
    for path in notebooks().values():
        for name, p in parameters_of(path).items():
            if name.isupper():
                found.setdefault(name, p.help + (f" [{p.default}]" if str(p.default) else ""))
    return found | {"P": 'further notebook parameters: P="alpha=2 layer_step=1"'}


def given_parameters() -> dict[str, str]:
    """The parameters that the user set. Raises ParameterError for a make variable that is none, with the
    nearest name.
    """
    known = make_variables()
    for name in os.environ.get("COMPANION_GIVEN", "").split():
        if name not in known and name not in MAKE_ONLY:
            raise ParameterError(
                f"unknown parameter {name!r}",
                nearest(name, known) + '; a notebook\'s further parameters go into P="…"',
            )
    values = {name: os.environ[PREFIX + name] for name in known if os.environ.get(PREFIX + name, "") != ""}
    from refusal.run.params import parse_further

    return {k: v for k, v in values.items() if k != "P"} | parse_further(values.get("P", ""))


def reproduce(only: str | None = None) -> None:
    """Every notebook, or one, with what was given; then the ledger and the figures."""
    from refusal.run import params, runner

    books = runner.notebooks()
    if only is not None and only not in books:
        raise ParameterError(f"there is no notebook {only}", nearest(only, books))
    chosen = {only: books[only]} if only else books
    given = given_parameters()
    known = {name for path in chosen.values() for name in params.parameters_of(path)}
    known.add("MODEL")  # stands in for the one model of a notebook that calls it otherwise
    for name in given:
        if name not in known:
            raise ParameterError(f"no notebook of this run has a parameter {name!r}", nearest(name, known))
    plan = []
    for path in chosen.values():
        own = params.parameters_of(path)
        mine = {k: v for k, v in given.items() if k in own}
        subjects = [name for name, p in own.items() if p.subject]
        if "MODEL" in given and len(subjects) == 1:
            mine.setdefault(subjects[0], given["MODEL"])
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


def claims(tier: str | None = None) -> None:
    """Print the ledger of every run that is here, or of one tier."""
    from refusal.base.files import RESULTS
    from refusal.report.render import read_ledger, table

    ledger = [entry for entry in read_ledger(RESULTS) if tier in (None, entry[0])]
    if not ledger:
        raise UserError("the ledger is empty", "run `make reproduce` first")
    width = min(120, max(60, os.get_terminal_size().columns if sys.stdout.isatty() else 120))
    for group in dict.fromkeys((tier, model) for tier, model, _ in ledger):
        records = [r for tier, model, r in ledger if (tier, model) == group]
        made = (
            " (constructed model: tests the instrument, says nothing about a paper)"
            if records[0].evidence == "constructed"
            else ""
        )
        print(f"\n{group[1]} · tier {group[0]}{made}")
        for record, (claim, paper, here, controls, verdict) in zip(records, table(records), strict=True):
            print(
                "\n".join(textwrap.wrap(f"{verdict.upper():<15} {claim}", width, subsequent_indent=" " * 16))
            )
            for line in (f"paper: {paper}  |  here: {here}  |  controls: {controls}", record.reason):
                print(
                    "\n".join(textwrap.wrap(line, width, initial_indent=" " * 16, subsequent_indent=" " * 16))
                )
    verdicts = [r.verdict for _, _, r in ledger]
    print("\n" + ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)))


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
    """Redraw every figure from saved results."""
    from refusal.base.files import FIGURES, RESULTS
    from refusal.report.figures import redraw, update_manifest

    runs = sorted(path.parent for path in RESULTS.glob("*/*/*/figures.json"))
    if not runs:
        raise UserError("there are no results to draw", "run `make reproduce` first")
    for run in runs:
        into = FIGURES / run.relative_to(RESULTS)
        print(f"{into.relative_to(FIGURES.parent)}: {', '.join(redraw(run, into))}", flush=True)
    update_manifest()


def readme() -> None:
    """Write the results tables of README.md from the ledger."""
    from refusal.base.files import ROOT, write_text

    path = ROOT / "README.md"
    write_text(path, with_results(path.read_text(encoding="utf-8")))


def with_results(text: str) -> str:
    """The README's text with tables of the committed ledger, and with what each finding says of its records
    (``findings/*/readme.py``).
    """
    from refusal.report.render import readme_with_results, tracked_models
    from refusal.run.parts import parts_of_findings

    return readme_with_results(
        text, tracked_models(), [module.paragraph for module in parts_of_findings("readme")]
    )


def help_() -> None:
    """One line per target, then the parameters with their defaults."""
    from refusal.base.machine import slower
    from refusal.model.registry import MODELS, RECIPES, TIERS
    from refusal.run.params import parameters_of
    from refusal.run.runner import notebooks

    print(
        textwrap.dedent("""\
        Results
          make hello        a first figure and a few judged answers on the 135M model, in three minutes
          make reproduce    every notebook, end to end; then the ledger and the figures
          make nb-NN        one notebook, by its number
          make claims       print the ledger: claim, paper's value, value here, controls, verdict
          make models       what the cache holds, and what it takes to get the rest
          make figures      redraw every figure from saved results; no model, no network
          make lab          JupyterLab on the notebooks
        Development
          make test         the whole test suite        make lint    ruff, ty, no outputs in notebooks
          make bench        costs as ratios, measured side by side
          make clean        remove results and computed caches
          make distclean    also the environment and downloaded files

        Parameters, for every target that runs notebooks: make reproduce MODEL=… SEED=…""")
    )
    for name, about in make_variables().items():
        print(f"  {name:<13} {about}")
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


def hello() -> None:
    """The newcomer's first three minutes."""
    from refusal.run.hello import main

    main()


TARGETS = {
    "reproduce": reproduce,
    "nb": reproduce,
    "claims": claims,
    "figures": figures,
    "readme": readme,
    "models": models,
    "help": help_,
    "clean": clean,
    "hello": hello,
}


def _run(target: str, *rest: str) -> None:
    if target not in TARGETS:
        raise ParameterError(f"unknown target {target!r}", nearest(target, TARGETS))
    if target in ("figures", "hello", "clean", "readme", "models"):
        given_parameters()
        TARGETS[target]()
    elif target == "claims":
        claims(given_parameters().get("TIER"))
    else:
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
    if (
        status == STOPPED
        # all is cleaned up by now; what a stopped kernel's tasks still have to say would only bury the
        # message
    ):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
