"""Every notebook, and what `make new` makes of the template, is of one form; each check is shown to fail on a
broken copy.
"""

import ast
import copy
import inspect
import re
import statistics
import tomllib

import nbformat
import pytest

from refusal.base.files import NOTEBOOKS
from refusal.model import loading
from refusal.model.registry import RECIPES
from refusal.run import new

NEW = "99_made_from_the_template"
SOURCES = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb"))
}
CLAIMS = {
    stem: (NOTEBOOKS / f"{stem}.claims.toml").read_text(encoding="utf-8")
    for stem in SOURCES
    if (NOTEBOOKS / f"{stem}.claims.toml").exists()
}
MADE = {path.name: text for path, text in new.files("99", "2501.01234", "made_from_the_template").items()}
SOURCES |= {NEW: MADE[f"{NEW}.ipynb"]}
CLAIMS |= {NEW: MADE[f"{NEW}.claims.toml"]}

LINES = 40, 15  # the longest code cell, and the median one
SAY_WHAT_THEY_DRAW = ("N", "SEED")  # their default, bounds and words are the notebook's own
INSTEAD_OF_MODEL = ("BASE", "POST", "REASONER")


def number_of(stem: str) -> str:
    return stem.partition("_")[0]


def code(nb) -> list[str]:
    return [cell.source for cell in nb.cells if cell.cell_type == "code"]


def nodes(nb) -> list[ast.AST]:
    return [node for source in code(nb) for node in ast.walk(ast.parse(source))]


def parameters(nb) -> dict[str, str]:
    """{name: its line} of the parameter cell."""
    cell = next(cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", []))
    return {line.partition(":")[0]: line for line in cell.source.splitlines() if re.match(r"\w+: ", line)}


def title(nb, number: str) -> list[str]:
    """The title has the file's number, and the first cell a link to the paper."""
    first, wrong = nb.cells[0].source, []
    if not first.startswith(f"# {number} · "):
        wrong.append(f"the title is not `# {number} · …`: {first.splitlines()[0]}")
    if not re.search(r"https://arxiv\.org/abs/\d{4}\.\d{5}\)", first):
        wrong.append("the first cell links to no paper")
    return wrong


def standard_parameters(nb, template) -> list[str]:
    """The template's parameters in capitals stand here in the same words and order."""
    own, wrong = parameters(nb), []
    standard = {name: line for name, line in parameters(template).items() if name.isupper()}
    for name, line in standard.items():
        if name == "MODEL" and any(other in own for other in INSTEAD_OF_MODEL):
            continue
        asked = re.match(r'MODEL: str = "([^"]+)"  # .*\(model; smoke: [\w-]+\)', own.get(name, ""))
        if asked and asked[1] in RECIPES:  # about a model that the finding trains
            continue
        if name in SAY_WHAT_THEY_DRAW:
            line = re.match(r"N: int = |SEED: int = 0  # draws ", line)[0]
        if not own.get(name, "").startswith(line) or (name not in SAY_WHAT_THEY_DRAW and own[name] != line):
            wrong.append(f"{name} is not `{line}`: {own.get(name)}")
    order = [name for name in own if name in standard]
    if order != [name for name in standard if name in own]:
        wrong.append(f"the parameters stand in another order: {order}")
    return wrong


def pattern(node: ast.AST) -> str | None:
    """A regular expression of the claim ids that a string or an f-string can be; between two dots any one
    word fits, and what follows a word directly may be nothing, or begin with a dot.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if not isinstance(node, ast.JoinedStr):
        return None
    text = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += re.escape(part.value)
        else:
            text += r"[^.]+" if text.endswith(".") else r"\.?[^.]*"
    return text


def reported(cell: ast.Module) -> set[str]:
    """Patterns of the ids that a cell gives to ``run.claim``: written there, or given a name in the cell."""
    first = [
        node.args[0]
        for node in ast.walk(cell)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.claim" and node.args
    ]
    named = {arg.id for arg in first if isinstance(arg, ast.Name)}
    first += [
        node.value
        for node in ast.walk(cell)
        if isinstance(node, ast.Assign) and {t.id for t in node.targets if isinstance(t, ast.Name)} & named
    ]
    return {text for node in first if (text := pattern(node))}


def claims(nb, number: str, planned: str) -> list[str]:
    """Every claim of the claims file begins with the notebook's number and is reported by a cell; no cell
    reports another.
    """
    ids = [claim["id"] for claim in tomllib.loads(planned)["claim"]]
    wrong = [f"{id} does not begin with {number}." for id in ids if not id.startswith(f"{number}.")]
    found = {text for source in code(nb) for text in reported(ast.parse(source))}
    wrong += [f"{id} is never reported" for id in ids if not any(re.fullmatch(p, id) for p in found)]
    return wrong + [f"{p} is no claim" for p in found if not any(re.fullmatch(p, id) for id in ids)]


def unused_parameters(nb) -> list[str]:
    """Each parameter is read in a later cell; those that `loading.load` takes stand there under its name for
    them, in a call or in a dictionary of a call's options.
    """
    at = next(i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
    later = [
        node
        for cell in nb.cells[at + 1 :]
        if cell.cell_type == "code"
        for node in ast.walk(ast.parse(cell.source))
    ]
    read = {node.id for node in later if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    given = [(node.arg, node.value) for node in later if isinstance(node, ast.keyword)]
    for node in (node for node in later if isinstance(node, ast.Dict)):
        given += [(getattr(k, "value", None), v) for k, v in zip(node.keys, node.values, strict=True)]
    reach = {(option, name.id) for option, v in given for name in ast.walk(v) if isinstance(name, ast.Name)}
    options = [
        p.name for p in inspect.signature(loading.load).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    return [f"{name} is not used" for name in parameters(nb) if name not in read] + [
        f"{option}={option.upper()} does not reach load"
        for option in options
        if (option, option.upper()) not in reach
    ]


def private_names(nb) -> list[str]:
    """No cell takes what a module keeps to itself: what a reader copies has to stay where it is."""
    taken = [node.attr for node in nodes(nb) if isinstance(node, ast.Attribute)]
    taken += [a.name for node in nodes(nb) if isinstance(node, ast.ImportFrom) for a in node.names]
    return [f"takes the private name {name}" for name in taken if re.match(r"_(?!_)", name)]


def hand_made_intervals(nb) -> list[str]:
    """Intervals come from `refusal.measure.stats`, which are tested for coverage: no normal quantile, no
    percentiles of draws.
    """
    wrong = []
    for node in nodes(nb):
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and round(node.value, 2) == 1.96:
            wrong.append("holds the number 1.96")
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if re.fullmatch(r"(nan)?(percentile|quantile)", name):
                wrong.append(f"calls {name}(")
    return wrong


def long_cells(nb, most: float, median: float) -> list[str]:
    lengths = [len(source.splitlines()) for source in code(nb)]
    wrong = [f"a code cell has {n} lines, at most {most} are read" for n in lengths if n > most]
    if statistics.median(lengths) > median:
        wrong.append(f"the median code cell has {statistics.median(lengths)} lines, at most {median}")
    return wrong


def named(source: str, method: str) -> list[str]:
    """What a cell's calls of a recorder's method name first, as written."""
    return [
        ast.unparse(node.args[0])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"run.{method}" and node.args
    ]


def unread_figures(nb) -> list[str]:
    """What a figure shows is said below it, by its own cell or the next one."""
    cells = code(nb)
    return [
        f"no run.reading follows the figure {name}"
        for cell, after in zip(cells, [*cells[1:], ""], strict=True)
        for name in named(cell, "figure")
        if name not in named(cell, "reading") + named(after, "reading")
    ]


def figures_without_sample(nb) -> list[str]:
    """A picture says by itself of how many items it is and which intervals it shows: talks show it alone."""
    return [
        f"the figure {ast.unparse(node.args[0])} does not say its sample"
        for node in nodes(nb)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.figure"
        if "sample" not in {k.arg for k in node.keywords}
    ]


def folded(cell) -> bool:
    return bool({"hide-input", "parameters"} & set(cell.metadata.get("tags", [])))


def shadowed(nb) -> list[str]:
    """Names that are imported and given to something else, which a later cell would then call."""
    nodes = [node for source in code(nb) for node in ast.walk(ast.parse(source))]
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    given = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    given |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return sorted(imported & given)


def prose(nb) -> list[str]:
    """An essay: at least five words for each line of code that stands open, and these lines short."""
    words = sum(len(cell.source.split()) for cell in nb.cells if cell.cell_type == "markdown")
    open_ = [c.source for c in nb.cells if c.cell_type == "code" and not folded(c)]
    lines = [line for source in open_ for line in source.splitlines() if line.strip()]
    wrong = [
        f"a line of an open cell has {len(line)} characters: {line}" for line in lines if len(line) > 100
    ]
    if words < 5 * len(lines):
        wrong.append(f"{words} words for {len(lines)} lines of open code")
    return wrong


def names_in(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """What a statement reads of the names that stand outside it, and what it binds there."""
    nodes = list(ast.walk(statement))
    ids = lambda node: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    inner = {name for n in nodes if isinstance(n, ast.comprehension) for name in ids(n.target)}
    looped = {name for n in nodes if isinstance(n, ast.For) for name in ids(n.target)}
    own = inner | looped | {n.arg for n in nodes if isinstance(n, ast.arg)}
    names = [n for n in nodes if isinstance(n, ast.Name)]
    stored = {n.id for n in names if isinstance(n.ctx, ast.Store)} - inner | looped
    loaded = {n.id for n in names if isinstance(n.ctx, ast.Load)} - own
    if hasattr(statement, "body"):  # what a block binds it may read
        loaded -= stored
    return loaded, set() if isinstance(statement, ast.FunctionDef) else stored


def changed_by_reports(nb) -> list[str]:
    """Names that an open cell binds, a folded one after it binds anew, and a later open one reads: what is
    measured there is of another thing.
    """
    bound: set[str] = set()
    changed, wrong = {}, []
    for i, cell in enumerate(c for c in nb.cells if c.cell_type == "code"):
        for statement in ast.parse(cell.source).body:
            loaded, stored = names_in(statement)
            if folded(cell):
                changed |= {name: i for name in stored & bound}
                continue
            wrong += [
                f"{name}, changed by the report in cell {changed[name]}" for name in loaded & set(changed)
            ]
            bound |= stored
            changed = {name: k for name, k in changed.items() if name not in stored}
    return wrong


# what a notebook shows, in order; each once but for the figures between
FORM = ("run.opening(", "run.plan()", "shown.tokens(", "run.closing()", "run.ledger()", "run.finish()")


def form(nb) -> list[str]:
    """The parts of a notebook stand in their order; after the last, something to try, without a claim."""
    cells = [(i, cell.source) for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    at = [[i for i, source in cells if part in source] for part in FORM]
    wrong = [f"{part} stands in {len(of)} cells" for part, of in zip(FORM, at, strict=True) if len(of) != 1]
    if not wrong and at != sorted(at):
        wrong.append(f"the order is not {', '.join(FORM)}")
    end = at[-1][0] if at[-1] else len(nb.cells)
    after = nb.cells[end + 1 :]
    if not any(c.source.startswith("## Try this") for c in after) or after[-1].cell_type != "code":
        wrong.append("nothing to try stands at the end")
    if not any("steering(" in c.source for c in after if c.cell_type == "code"):
        wrong.append("no panel stands at the end")
    if any(f"run.{what}(" in c.source for c in after for what in ("claim", "metric", "figure")):
        wrong.append("something is reported after run.finish()")
    return wrong


@pytest.fixture(params=SOURCES)
def stem(request):
    return request.param


@pytest.fixture()
def nb(stem):
    return nbformat.reads(SOURCES[stem], 4)


@pytest.fixture()
def made():
    """What `make new` makes of the template: in order, and to be broken."""
    return nbformat.reads(SOURCES[NEW], 4)


def test_title(stem, nb):
    assert not title(nb, number_of(stem))


def test_standard_parameters(nb, made):
    assert not standard_parameters(nb, made)


def test_claims(stem, nb):
    assert stem in CLAIMS, "it has no claims file"
    assert not claims(nb, number_of(stem), CLAIMS[stem])


def test_every_parameter_is_used(nb):
    assert not unused_parameters(nb)


def test_no_import_is_given_another_meaning(nb):
    assert not shadowed(nb)


def test_no_folded_cell_changes_what_open_ones_measured(nb, made):
    assert not changed_by_reports(nb)
    for source in ("h = 1", "for h in (1, 2):\n    pass", "a, h = 1, 2"):
        broken = copy.deepcopy(made)
        at = next(
            i for i, c in enumerate(broken.cells) if c.cell_type == "code" and c.source.startswith("said = ")
        )
        for k, (text, tags) in enumerate(
            (("h = 0", []), (source, ["hide-input"]), ("print([x for x in (h,)])", []))
        ):
            cell = nbformat.v4.new_code_cell(text, metadata={"tags": tags})
            broken.cells.insert(at + k, cell)
        assert changed_by_reports(broken), source


def test_no_private_names(nb):
    assert not private_names(nb)


def test_no_hand_made_intervals(nb):
    assert not hand_made_intervals(nb)


def test_length_of_cells(stem, nb):
    assert not long_cells(nb, *LINES)


def test_each_figure_says_its_sample(stem, nb):
    assert not figures_without_sample(nb)


def test_a_reading_follows_each_figure(stem, nb):
    assert not unread_figures(nb)


def test_prose(stem, nb):
    assert not prose(nb)


def test_form(stem, nb):
    assert not form(nb)


def test_the_template_is_no_notebook():
    assert not [stem for stem in SOURCES if not re.match(r"\d\d", stem)]
    assert nbformat.validate(nbformat.read(NOTEBOOKS / "_template.ipynb", 4)) is None


def replaced(nb, old: str, by: str):
    """A copy of a notebook with one text in place of another, which has to be there."""
    broken, times = copy.deepcopy(nb), 0
    for cell in broken.cells:
        times += cell.source.count(old)
        cell.source = cell.source.replace(old, by)
    assert times
    return broken


def added(nb, source: str):
    broken = copy.deepcopy(nb)
    broken.cells.append(nbformat.v4.new_code_cell(source))
    return broken


def test_a_wrong_title_is_found(made):
    assert title(replaced(made, "# 99 ·", "# 98 ·"), "99") and title(made, "98")
    assert title(replaced(made, "https://arxiv.org/abs/2501.01234", "https://example.org"), "99")


@pytest.mark.parametrize(
    "old, by",
    [
        ("(model; smoke: tiny;", "(model; smoke: none;"),
        ('DEVICE: str = "auto"', 'DEVICE: str = "cpu"'),
        ("# auto, cpu, cuda or mps", "# where it runs"),
        ("SEED: int = 0  # draws", "SEED: int = 1  # draws"),
        ("N: int", "N: float"),
        ('DATE: str = "2024-07-26"', 'day: str = "2024-07-26"'),
        ("where it writes one", "where it has one"),
    ],
)
def test_a_changed_standard_parameter_is_found(made, old, by):
    assert standard_parameters(replaced(made, old, by), made)


def test_another_order_of_parameters_is_found(made):
    lines = parameters(made)
    moved = replaced(made, lines["DATE"], "").cells
    broken = copy.deepcopy(made)
    broken.cells = moved
    cell = next(cell for cell in broken.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = lines["DATE"] + "\n" + cell.source
    assert standard_parameters(broken, made)


def test_a_claim_that_is_not_reported_is_found(made):
    id = "99.refuses.harmful-more"
    assert claims(replaced(made, id, "99.refuses"), "99", CLAIMS[NEW])
    assert claims(made, "99", CLAIMS[NEW].replace(id, "98.refuses.harmful-more"))
    more = CLAIMS[NEW] + '\n[[claim]]\nid = "99.refuses.more.often"\n'
    assert claims(made, "99", more)
    for source in (
        'run.claim("99.refuses.more.often", *y)',
        'run.claim(f"99.refuses.more.{x}", *y)',
        'run.claim(f"99.refuses.more{x}", *y)',
        'for x in z:\n    run.claim(f"99.refuses.{x}.often", *y)',
        'id = f"99.refuses.more.{x}"\nrun.claim(id, *y)',
    ):
        assert claims(added(made, source), "99", more) == [], source
    for source in (
        'run.claim(f"99.refuses.{x}", *y)',
        'print(f"99.refuses.more.{x}")',
        'run.claim("99.refuses.more.oftn", *y)',
    ):
        assert claims(added(made, source), "99", more), source
    assert claims(added(made, 'run.claim("99.refuses.more.often", *y)'), "99", CLAIMS[NEW])


def test_a_parameter_that_nothing_takes_is_found(made):
    assert unused_parameters(replaced(made, "date=DATE", 'date="2024-07-26"'))
    assert unused_parameters(replaced(made, "dtype=DTYPE", "dtype=DEVICE"))
    assert unused_parameters(replaced(made, "DATE: str", "more: int = 1\nDATE: str"))


def test_an_import_that_gets_another_meaning_is_found(made):
    for source in ("stats = 1", "for chat in (1, 2):\n    pass", "def display(x):\n    pass"):
        assert shadowed(added(made, source)), source
    assert not shadowed(added(made, "mine = stats.rate([1])"))


def test_a_private_name_is_found(made):
    assert private_names(added(made, "stats._ends(1, 2, 3, print)"))
    assert private_names(added(made, "from refusal.measure.stats import _ends"))
    assert not private_names(added(made, "_ = stats.__doc__"))


def test_a_hand_made_interval_is_found(made):
    for source in ("x = 1.96 * s", "x = 1.959964 * s", "np.percentile(x, 2.5)", "torch.quantile(x, 0.1)"):
        assert hand_made_intervals(added(made, source)), source
    assert not hand_made_intervals(added(made, 'note = "±1.96 standard deviations, no percentile("'))


def test_a_long_cell_is_found(made):
    assert long_cells(added(made, "x = 1\n" * 41), *LINES) and not long_cells(
        added(made, "x = 1\n" * 40), *LINES
    )
    broken = made
    for _ in made.cells:
        broken = added(broken, "x = 1\n" * 16)
    assert long_cells(broken, *LINES)


def test_a_figure_without_words_is_found(made):
    figure, reading = 'run.figure("f", "rates", rows)', 'run.reading("f", "It rises.")'
    assert unread_figures(added(made, figure))
    assert unread_figures(added(added(made, figure), reading.replace("f", "g")))
    assert not unread_figures(added(made, f"{figure}\n{reading}"))
    assert not unread_figures(added(added(made, figure), reading))
    assert figures_without_sample(added(made, figure))
    assert not figures_without_sample(added(made, 'run.figure("f", "rates", rows, sample="8 prompts")'))


def test_code_without_prose_is_found(made):
    assert prose(added(made, "x = 1\n" * 40))
    assert prose(added(made, f"x = {'1' * 100}"))
    broken = added(made, "x = 1\n" * 40)
    broken.cells[-1].metadata["tags"] = ["hide-input"]
    assert not prose(broken)


def test_another_form_is_found(made):
    for part in FORM:
        assert form(replaced(made, part, "pass #")), part
        assert form(added(made, part)), part
    assert form(replaced(made, "## Try this", "## The end"))
    assert form(replaced(made, "steering(", "print("))
    assert form(added(made, 'run.metric("m", 1)'))
    broken = copy.deepcopy(made)
    at = next(i for i, cell in enumerate(broken.cells) if "run.plan()" in cell.source)
    broken.cells.insert(2, broken.cells.pop(at))
    assert form(broken)
