"""``make help``: the targets, the parameters with their defaults, one notebook's own, the models. With the
standard library alone: it answers before anything is installed.
"""

import re
import textwrap
import tomllib
from collections import Counter
from collections.abc import Mapping

from refusal.base.errors import ParameterError, nearest
from refusal.base.files import RESULTS, ROOT
from refusal.base.machine import slower
from refusal.base.took import about_minutes
from refusal.model.registry import MODELS, RECIPES, TIERS
from refusal.run.declared import Parameter, notebooks, parameters_of, question

TARGETS = """\
usage: make TARGET [PARAMETER=value …]
  make hello        a first figure and a few judged answers on a 135M model; 3 minutes after downloads
  make nb-NN        one notebook: {numbers}; make help-NN says what it asks and takes
  make reproduce    every notebook, then the ledger and the figures; RUN=results/…/run.json: that run again
  make claims       the ledger, of one MODEL, TIER or VERDICT: paper's value, value here, controls, verdict
  make doctor       does a MODEL fit: values, refusals, memory, minutes, what will be uninformative
  make sweep        many runs from SWEEP=file.yaml, then a table and a figure of them
  make models       what the cache holds, what the rest takes; make help-models: what each is good for
  make figures      what changed of the figures, from saved results; FIG=02/cosines STYLE=slide FORMAT=pdf
  make site         notebooks, figures and ledger as pages in site/, read without server or network
  make lab          JupyterLab on the notebooks
  make clean        remove results, the site, what was computed; make distclean: environment, downloads too
  to develop      make new, make test, make test-numbers, make lint, make bench, make readme: CONTRIBUTING.md
Parameters, for every target that runs notebooks"""


def print_help(topic: str | None, options: Mapping[str, tuple[str, str]]) -> None:
    """Print the overview, or what there is to say of a notebook's number, of ``models``, or of a target that
    takes `options`: make variables that are no notebook's parameter, {name: (target, what it is)}.

    Raises ParameterError for another topic.
    """
    books = notebooks()
    if topic is None:
        _overview(options)
    elif topic == "models":
        _models()
    elif topic in books:
        _notebook(topic)
    elif found := {name: about for name, (target, about) in options.items() if target == topic}:
        print(f"make {topic} takes")
        for name, about in found.items():
            print(f"  {name:<13} {about}")
    else:
        targets = {target for target, _ in options.values()}
        raise ParameterError(f"there is no help on {topic!r}", nearest(topic, [*books, *targets, "models"]))


def make_variables() -> dict[str, str]:
    """{name: what it is [default]} of the make variables that any notebook takes: the parameters that it has
    in capitals.
    """
    found: dict[str, list[Parameter]] = {}
    for path in notebooks().values():
        for name, p in parameters_of(path).items():
            if name.isupper():
                found.setdefault(name, []).append(p)
    order = sorted(found, key=lambda name: (not found[name][0].model, -len(found[name])))
    brief = {
        name: textwrap.shorten(_short(found[name][0]).partition(";")[0], 80, placeholder=" …")
        for name in order
    }
    lines = {name: text + _default(*found[name]) for name, text in brief.items()}
    return lines | {"P": 'further parameters of a notebook: P="alpha=2 layer_step=1"'}


def _short(p: Parameter) -> str:
    """What a parameter is, without what the checks read in brackets."""
    return re.sub(r" \((model|one of|folder)\b[^)]*\)", "", p.help)


def _default(*same: Parameter) -> str:
    defaults = [*dict.fromkeys(str(p.default) or "none" for p in same)]
    each = " or ".join(defaults)
    if len(each) > 30 and len(defaults) > 1:  # names of models, say: the notebooks' own help says which
        return f" [{defaults[0]}, by notebook]"
    return f" [{each}{', by notebook' * (len(defaults) > 1)}]"


def _overview(options: Mapping[str, tuple[str, str]]) -> None:
    print(TARGETS.format(numbers=" ".join(notebooks())))
    for name, about in make_variables().items():
        print(f"  {name:<13} {about}")
    of: dict[str, list[str]] = {}
    for name, (target, _) in options.items():
        of.setdefault(target, []).append(name)
    said = "; ".join(f"{target} {', '.join(names)}" for target, names in of.items())
    print(f"For one target (more: make help-claims): {said}")


def _notebook(number: str) -> None:
    path = notebooks()[number]
    claims = tomllib.loads(path.with_suffix(".claims.toml").read_text(encoding="utf-8"))["claim"]
    origins = Counter(c.get("origin", "paper") for c in claims)
    parameters = parameters_of(path)
    print(f"{number}: {question(path)}")
    print(f"  {path.relative_to(ROOT)}; papers: {', '.join(sorted({c['paper'] for c in claims}))}")
    print(
        f"  {len(claims)} claims: {origins['paper']} of papers, {origins['ours']} questions of ours; "
        f"make claims PLAN=1 lists them"
    )
    took = {run.parent.name: about_minutes(run) for run in sorted(RESULTS.glob(f"*/*/{path.stem}"))}
    for model, minutes in took.items():
        if minutes:
            print(f"  took {minutes} min on {model}")
    print("About")
    for name in (name for name, p in parameters.items() if p.subject):
        print(f"  {name:<17} {_short(parameters[name])}{_default(parameters[name])}")
    print('Further parameters, in P="name=value …"')
    for name, p in parameters.items():
        if not name.isupper():
            print(f"  {name:<17} {_short(p)}{_default(p)}")


def _models() -> None:
    print("Models, for MODEL=…; a hub id, a folder or a .gguf file does as well")
    for entry in MODELS.values():
        print(f"  {entry.name:<29} {entry.about}; {entry.disk_gb} GB on disk{_times(entry.name)}")
    for recipe in RECIPES.values():
        print(
            f"  {recipe.name:<29} {recipe.base} {recipe.about}; {recipe.disk_gb} GB on disk, made here in "
            f"about {recipe.minutes} min{_times(recipe.name)}"
        )
    print(f"  times: on two cores with bfloat16 arithmetic{slower()}")
    print("Tiers, for TIER=…")
    for name, about in TIERS.items():
        print(f"  {name:<13} {about}")


def _times(model: str) -> str:
    """What the runs whose results are here took on a model."""
    runs = sorted((RESULTS / "embedded" / model).glob("[0-9]*"))
    took = {run.name: about_minutes(run) for run in runs if "@" not in run.name}
    found = ", ".join(f"{name.partition('_')[0]} {minutes} min" for name, minutes in took.items() if minutes)
    return f"; notebooks took: {found}" if found else ""
