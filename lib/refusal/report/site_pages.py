"""Runs as HTML: the ledger as a table that opens, intervals as bars, figures with their readings.

Text in, text out; every name and number is escaped here. `root` is the way from a page up to the site's top.
"""

import struct
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from refusal.report.render import ORDER, controls_of, counts, paper_value, standing, table
from refusal.report.rules import Record, comparisons
from refusal.report.runs import Run
from refusal.report.shown import measured

WIDTH, HEIGHT, EDGE = 300, 26, 8  # of an interval bar, in pixels
EVIDENCE = {
    "released": "weights published by others",
    "trained here": "a model trained here",
    "constructed": "a constructed model",
}


def pill(verdict: str) -> str:
    """A verdict as a coloured word."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def link(run: Run, root: str, anchor: str = "") -> str:
    """The address of a run's page."""
    return f"{root}{quote(run.page)}.html" + (f"#{quote(anchor)}" if anchor else "")


def tally(records: Iterable[Record]) -> str:
    """How many records have each verdict, by evidence and by whose claim: a list."""
    records, rows = list(records), []
    for evidence, words in EVIDENCE.items():
        for origin, of in (("paper", "claims of papers"), ("ours", "questions of ours")):
            if part := [r for r in records if (r.evidence, r.origin) == (evidence, origin)]:
                rows.append(f"<li>{of}, on {words}: {counts(part)}</li>")
    return f'<ul class="tally">{"".join(rows)}</ul>'


def overview(runs: Sequence[Run], questions: dict[str, str], shown: int = 3) -> str:
    """The front page's table: question, what came out, verdicts by evidence, pages. `questions` is by
    notebook; `shown` claims of a verdict are named, the others counted.
    """
    rows = []
    for notebook in dict.fromkeys(run.notebook for run in runs):
        mine = [run for run in runs if run.notebook == notebook]
        asked = [(run, r) for run in mine if not run.differs for r in run.records]
        claims = [(run, r) for run, r in asked if r.origin == "paper" and r.evidence != "constructed"]
        came = escape(standing([r.verdict for _, r in claims if r.evidence == "released"]))
        for verdict in ("not replicated", "replicated"):
            decided = sorted(
                [(run, r) for run, r in claims if r.verdict == verdict],
                key=lambda pair: pair[1].evidence != "released",
            )
            named = "".join(
                f'<li><a href="{link(run, "", r.id)}">{escape(r.statement)}</a>: {escape(measured(r))}, on '
                f"{escape(run.title)}{' (trained here)' if r.evidence == 'trained here' else ''}</li>"
                for run, r in decided[:shown]
            )
            more = f"<li>and {len(decided) - shown} more</li>" if len(decided) > shown else ""
            came += f"<p>{pill(verdict)}</p><ul>{named}{more}</ul>" if decided else ""
        pages = "".join(f'<li><a href="{link(run, "")}">{escape(run.title)}</a></li>' for run in mine)
        rows.append(
            f'<tr><th scope="row">{escape(questions[notebook])}</th>'
            f'<td data-label="What came out">{came}</td>'
            f'<td data-label="Verdicts">{tally(r for _, r in asked)}</td>'
            f'<td data-label="Pages"><ul>{pages}</ul></td></tr>'
        )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Question", "What came out", "Verdicts by evidence", "Page")
    )
    return (
        f'<table class="cards overview"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def ledger(runs: Sequence[Run], root: str, constructed: bool = False, controls: bool = True) -> str:
    """The ledger of `runs`: a row per claim and a column per run with default parameters, each row opening to
    what its rule saw; what other parameters gave stands there too. Records of constructed models, or all
    others. Sorted and filtered by ``ledger.js`` where `controls`; a page about one run has none.
    """
    columns = [run for run in runs if not run.differs] or list(runs)
    cells: dict[str, list[tuple[Run, Record]]] = {}
    for run in [*columns, *(run for run in runs if run not in columns)]:
        for r in run.records:
            if (r.evidence == "constructed") == constructed:
                cells.setdefault(r.id, []).append((run, r))
    names = list(
        dict.fromkeys((run.tier, run.model) for found in cells.values() for run, _ in found if run in columns)
    )
    if not cells:
        return "<p>None is here.</p>"
    bodies = [_claim(i, found, columns, names, root) for i, found in enumerate(cells.values())]
    tiers = len({tier for tier, _ in names}) > 1
    head = ["claim", "the paper"] + [
        escape(model.replace("--vs--", " against ") + (f" ({tier})" if tiers else ""))
        for tier, model in names
    ]
    cell = '<th scope="col"><button type="button">{}</button></th>' if controls else '<th scope="col">{}</th>'
    return (
        f'<div class="ledger-box">{_filters(cells) if controls else ""}'
        f'<table class="cards ledger"><thead><tr>{"".join(map(cell.format, head))}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def _filters(cells: dict[str, list[tuple[Run, Record]]]) -> str:
    """The form above a ledger; without JavaScript it stays hidden."""
    records = [r for found in cells.values() for _, r in found]
    choices = {
        "verdict": [v for v in ORDER if v in {r.verdict for r in records}],
        "notebook": sorted({run.number for found in cells.values() for run, _ in found}),
        "evidence": [e for e in EVIDENCE if e in {r.evidence for r in records}],
        "origin": [o for o in ("paper", "ours") if o in {r.origin for r in records}],
    }
    selects = "".join(
        f'<label>{name} <select name="{name}"><option value="">any</option>'
        f"{''.join(f'<option>{escape(value)}</option>' for value in values)}</select></label>"
        for name, values in choices.items()
    )
    return (
        f'<form hidden>{selects}<label>words <input type="search" name="words"></label>'
        "<output></output></form>"
    )


def _claim(
    i: int, found: list[tuple[Run, Record]], columns: list[Run], names: list[tuple[str, str]], root: str
) -> str:
    """One claim: the row that is seen, and the one that opens."""
    r = found[0][1]
    default = {(run.tier, run.model): (run, rec) for run, rec in found if run in columns}
    source = "our question"
    if r.origin == "paper":
        address = f"https://arxiv.org/abs/{quote(r.paper.removeprefix('arXiv:'))}"
        source = f'<a href="{address}">{escape(r.paper)}</a>, {escape(r.source)}'
    tds = []
    for tier, model in names:
        if (tier, model) not in default:
            tds.append('<td class="none" data-sort="9">–</td>')
            continue
        _, rec = default[tier, model]
        _, _, here, _, verdict = table([rec])[0]
        here, more = escape(here).replace(", n ", ", n&nbsp;"), verdict.removeprefix(rec.verdict)
        tds.append(
            f'<td data-sort="{ORDER.index(rec.verdict)}" '
            f'data-label="{escape(model.replace("--vs--", " against "))}">{pill(rec.verdict)}'
            f"{escape(more)}<br>{here}</td>"
        )
    value = escape(paper_value(r)) if r.origin == "paper" else "–"
    records = [rec for _, rec in found]
    data = {
        "verdict": "|".join(sorted({rec.verdict for run, rec in found if run in columns})),
        "notebook": found[0][0].number,
        "evidence": "|".join(sorted({rec.evidence for rec in records})),
        "origin": r.origin,
    }
    attributes = " ".join(f'data-{k}="{escape(v)}"' for k, v in data.items())
    opened = "".join(_seen(run, rec, root) for run, rec in found)
    return (
        f'<tbody id="{escape(r.id)}" {attributes}><tr><th scope="row" data-sort="{i}">'
        f'<span class="id">{escape(r.id).replace(".", ".<wbr>")}</span> {escape(r.statement)}</th>'
        f'<td data-sort="{i}" data-label="the paper">{source}<br>{value}</td>{"".join(tds)}</tr>'
        f'<tr class="more"><td colspan="{2 + len(names)}"><details><summary>interval, controls, reason'
        f'<span class="visually-hidden"> of {escape(r.id)}</span></summary>'
        f"<p>Replicated if: {escape(r.expected)}. Asked of a model where {escape(r.precondition)}.</p>"
        f"{opened}</details></td></tr></tbody>"
    )


def _seen(run: Run, r: Record, root: str) -> str:
    """What one run found for a claim: every interval that the rule compares with its bars, the reason, the
    controls, and where to read on.
    """
    pictures = "".join(
        f', <a href="{root}figures.html#{anchor(run, name)}">figure {escape(name)}</a>'
        for name, spec in run.figures.items()
        if r.id in spec.get("claims", ())
    )
    controls = "; ".join(
        escape(f"{name.replace('_', ' ')} {_digits(value)}") + _interval(r.controls.get(f"{name}_ci95"))
        for name, value in controls_of(r).items()
    )
    return (
        f'<section class="seen"><p><b>{escape(run.title)}</b> ({EVIDENCE[r.evidence]}) {pill(r.verdict)}: '
        f"{escape(r.reason)}. "
        f'<a href="{link(run, root, r.id)}">notebook</a>{pictures}</p>{_bars(r)}'
        f"<p>Controls: {controls}.</p></section>"
    )


def _digits(x) -> str:
    return "–" if x is None else f"{x:.3g}" if isinstance(x, float) else str(x)


def _interval(ci95) -> str:
    return "" if not ci95 or None in ci95 else f" [{ci95[0]:.3g}, {ci95[1]:.3g}]"


def _bars(r: Record) -> str:
    """A table with a row per quantity that the rule looks at: the interval as a picture, its numbers, and the
    bars that it has to clear. Empty where nothing was measured.
    """
    looked: dict[str, tuple[float, Sequence[float], list[tuple[str, float]]]] = {}
    if r.value is not None and r.ci95 is not None:
        looked["the value"] = (r.value, r.ci95, [])
    for part in comparisons(r.rule):
        level = part.level(r)
        if level is None:
            continue
        words = part.words() + (f" ({level:.3g})" if isinstance(part.bar, str) else "")
        for name, value, ci95 in r.named(part.of):
            if isinstance(value, (int, float)) and isinstance(ci95, (tuple, list)) and None not in ci95:
                looked.setdefault(name, (value, ci95, []))[2].append((words, level))
    if not looked:
        return ""
    ends = [x for value, ci95, bars in looked.values() for x in (value, *ci95, *(level for _, level in bars))]
    low, high = min(ends), max(ends)
    papers = [v for v in (r.paper_value or {}).values() if isinstance(v, (int, float))]
    room = high - low or 1.0
    papers = [v for v in papers if low - room <= v <= high + room]  # others are not on this scale
    span = min([low, *papers]), max([high, *papers])
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        f"<td>{interval_bar(name, value, ci95, bars, papers if name == 'the value' else [], span)}</td>"
        f'<td class="number">{value:.3g} [{ci95[0]:.3g}, {ci95[1]:.3g}]</td>'
        f"<td>{escape('; '.join(words for words, _ in bars)) or '–'}</td></tr>"
        for name, (value, ci95, bars) in looked.items()
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("measured", "interval", "in numbers", "bars"))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="intervals of {escape(r.id)}">'
        f'<table class="bars"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def interval_bar(
    name: str,
    value: float,
    ci95: Sequence[float],
    bars: Sequence[tuple[str, float]],
    papers: Sequence[float],
    span: tuple[float, float],
) -> str:
    """An interval as an SVG picture on the scale `span`: a dot on a thick line, the rule's `bars` (words,
    level) as upright lines, the `papers`' values as diamonds.
    """
    size = span[1] - span[0] or 1.0
    at = lambda x: round(EDGE + (x - span[0]) / size * (WIDTH - 2 * EDGE), 1)
    middle = HEIGHT / 2
    parts = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{middle}" y2="{middle}"/>']
    parts += [
        f'<line class="bar" x1="{at(x)}" x2="{at(x)}" y1="2" y2="{HEIGHT - 2}"/>'
        for x in dict.fromkeys(level for _, level in bars)
    ]
    parts.append(
        f'<line class="interval" x1="{at(ci95[0])}" x2="{at(ci95[1])}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="value" cx="{at(value)}" cy="{middle}" r="4.5"/>'
    )
    parts += [f'<path class="paper" d="M{at(x)} {middle - 6}l5 6-5 6-5-6z"/>' for x in dict.fromkeys(papers)]
    said = f"{name} {value:.3g}, interval {ci95[0]:.3g} to {ci95[1]:.3g}"
    said += "".join(f"; bar at {level:.3g}" for _, level in bars)
    said += "; the paper " + ", ".join(f"{x:.3g}" for x in papers) if papers else ""
    return (
        f'<svg role="img" aria-label="{escape(said)}" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    )


def anchor(run: Run, name: str) -> str:
    """A figure's place in the gallery, as an address has it."""
    return quote(f"{run.place}/{name}")


def alt(spec: dict) -> str:
    """What a figure shows, for who cannot see it: its reading, or else title and note."""
    return spec.get("reading") or f"{spec['title']}. {spec['note']}"


def picture(run: Run, name: str, png: bytes, root: str) -> str:
    """A figure with its caption: reading, note, claims, data. `png` is its file, for its size."""
    spec = run.figures[name]
    width, height = struct.unpack(">II", png[16:24])
    address = f"{root}figures/{quote(run.place)}/{quote(name)}.png"
    said = "".join(f"<p>{escape(spec[key])}</p>" for key in ("reading", "note") if spec.get(key))
    claims = ", ".join(f'<a href="{link(run, root, id)}">{escape(id)}</a>' for id in spec.get("claims", ()))
    return (
        f'<figure class="drawn"><a href="{address}"><img src="{address}" alt="{escape(alt(spec))}" '
        f'width="{width}" height="{height}" loading="lazy"></a><figcaption>{said}'
        f"<p>{f'Claims: {claims}. ' if claims else ''}"
        f'<a href="{root}results/{quote(run.place)}/data/{quote(name)}.csv">data of {escape(name)}</a></p>'
        "</figcaption></figure>"
    )


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def _machine(about: dict) -> str:
    """The device, and of a CPU which and how many cores."""
    machine = about.get("machine", {})
    if about.get("device") != "cpu" or not machine.get("processor"):
        return escape(str(about.get("device")))
    return escape(f"{machine['cores']} cores of {machine['processor']}")


def about(run: Run, command: str) -> str:
    """The box at the top of a run's page: the model, the verdicts, the answer to each claim, the command."""
    took = run.about.get("longest_s", run.about.get("duration_s"))
    answers = "".join(
        f'<li>{pill(r.verdict)} <a href="#{quote(r.id)}">{escape(r.statement)}</a>: '
        f"{escape(measured(r))}</li>"
        for r in run.records
    )
    facts = {
        "model": escape(run.title) + (f" (tier {escape(run.tier)})" if run.tier != "embedded" else ""),
        "verdicts": tally(run.records)
        + f"<details><summary>the answer to each claim</summary><ul>{answers}</ul></details>",
        "took": f"{_minutes(took)}, on {_machine(run.about)}" if took else "",
        "run this": f"<code>{escape(command)}</code>",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    return f'<dl class="about">{rows}</dl>'
