"""What a notebook shows beside its figures, as HTML that reads in a light and in a dark theme: the box at its
top, one prompt's tokens, small tables, the ledger, and its last paragraph. All words come from the records.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from refusal.base.estimate import Estimate
from refusal.report.render import MADE, ORDER, controls_used, counts, paper_value
from refusal.report.rules import Record

if TYPE_CHECKING:
    from refusal.model.loading import Model
    from refusal.trace.prompts import Prompt

# dark letters on a light ground, whatever the page's theme
GROUND = {
    "replicated": "#cde7d3",
    "not replicated": "#f6d3cd",
    "underpowered": "#f3e6bf",
    "uninformative": "#dddddd",
}
BOX = "border:1px solid;border-radius:6px;padding:.6em 1em;margin:.4em 0"
CELL = "text-align:left;vertical-align:top;padding:.25em .8em .25em 0"


def badge(verdict: str) -> str:
    """A verdict as a word on its colour."""
    style = f"background:{GROUND[verdict]};color:#1a1a1a;padding:0 .4em;border-radius:3px;white-space:nowrap"
    return f'<span style="{style}">{verdict}</span>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """An HTML table; cells are HTML already, and are shown whole."""
    head = "".join(f'<th scope="col" style="{CELL}">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows
    )
    title = f'<caption style="text-align:left">{html.escape(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def number(x: float | int | str | None) -> str:
    """Three digits that count, None as a dash."""
    return "–" if x is None else f"{x:.3g}" if isinstance(x, float) else html.escape(str(x))


def percent(x: float | None) -> str:
    """A share as a whole per cent, None as a dash."""
    return "–" if x is None else f"{x:.0%}"


def points(x: float | None) -> str:
    """A difference of shares in points, with its sign; None as a dash."""
    return "–" if x is None else f"{100 * x:+.0f} points"


def signed(x: float | None) -> str:
    """A difference with its sign and two digits; None as a dash."""
    return "–" if x is None else f"{x:+.2f}"


def digits(x: float | None) -> str:
    """Three digits that count, as plain text; None and what is no number as a dash."""
    return "–" if x is None or x != x else f"{x:.3g}"


def two(x: float | None) -> str:
    """Two digits, and no zero with a sign; None as a dash."""
    return "–" if x is None else f"{round(float(x), 2) + 0.0:.2f}"


def interval(found: Estimate | Record, form: Callable[[float | None], str] = two) -> str:
    """A value with its interval, in two digits or another form."""
    if found.value is None or found.ci95 is None:
        return "not measured"
    return f"{form(found.value)} [{form(found.ci95[0])}, {form(found.ci95[1])}]"


def capitalized(sentence: str) -> str:
    """With a capital at its beginning; the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def why(r: Record) -> str:
    """A verdict, with why nothing can be said or how many items would decide; the comparison behind it stands
    in the ledger.
    """
    if r.verdict == "uninformative":
        return f"{r.verdict}: {r.reason}"
    return r.verdict + (f" (about {r.needed_n} items would decide)" if r.needed_n else "")


def measured(r: Record) -> str:
    """The value of a record with its interval and n, as words."""
    if r.value is None or r.ci95 is None:
        return "not measured"
    return f"{number(r.value)} [{number(r.ci95[0])}, {number(r.ci95[1])}], n {r.n}"


def ledger(records: Sequence[Record]) -> str:
    """Every record whole: what is claimed, the verdict, the value here, the controls that the rule used, the
    paper's value, the reason.
    """
    rows = [
        (
            f"<b>{html.escape(r.id)}</b><br>{html.escape(r.statement + MADE[r.evidence])}",
            badge(r.verdict),
            measured(r),
            "<br>".join(f"{html.escape(k)} {number(v)}" for k, v in controls_used(r).items()) or "–",
            html.escape(paper_value(r)),
            html.escape(r.reason),
        )
        for r in records
    ]
    header = ("claim", "verdict", "here [95 % interval]", "controls of the rule", "paper", "reason")
    return table(header, rows, counts(records))


def opening(question: str, about: str, records: Sequence[Record], command: str) -> str:
    """The box at a notebook's top: its question, the model and what a run takes, a sentence for each claim's
    answer, and how to run it again.
    """
    said = "".join(f"<li>{badge(r.verdict)} {html.escape(r.statement)}: {measured(r)}</li>" for r in records)
    kinds = dict.fromkeys(r.evidence for r in records)
    tally = "; ".join(
        f"{counts(r for r in records if r.evidence == kind)} ({html.escape(kind)})" for kind in kinds
    )
    answers = (
        f"<p>{tally}</p><details><summary>The answer to each of {len(records)} claims</summary>"
        f"<ul>{said}</ul></details>"
        if records
        else "<p>No answers yet: they appear here when the notebook has run.</p>"
    )
    return (
        f'<div style="{BOX}"><p><b>{html.escape(question)}</b></p><p>{html.escape(about)}</p>{answers}'
        f"<p>Run this: <code>{html.escape(command)}</code></p></div>"
    )


def closing(records: Sequence[Record]) -> str:
    """What came out, as a paragraph of Markdown: for each verdict the claims of papers and ours that have it;
    of those that failed, why.
    """
    parts = []
    for origin, lead in (("paper", "Of the paper's claims"), ("ours", "Of the questions that are ours")):
        own = [r for r in records if r.origin == origin and r.evidence != "constructed"]
        if own:
            parts.append(f"{lead}, {len(own)} in all: {counts(own)}.")
        for verdict in ORDER:
            for r in [r for r in own if r.verdict == verdict and verdict == "not replicated"]:
                parts.append(f"**{r.id}** does not hold here: {r.reason}.")
        if held := [r for r in own if r.verdict == "replicated"]:
            parts.append("What holds: " + "; ".join(f"{r.statement} ({measured(r)})" for r in held) + ".")
    if planted := [r for r in records if r.evidence == "constructed"]:
        parts.append(
            f"Of {len(planted)} claims about models in which the answer is planted: {counts(planted)}."
        )
    return " ".join(parts)


def tokens(model: "Model", prompt: "Prompt") -> str:
    """A prompt token by token as the model reads it, t_inst and t_post marked; show harmless ones only."""
    marked = {prompt.t_inst: "t_inst", prompt.t_post: "t_post"}
    cells = []
    for i, token in enumerate(prompt.ids):
        text = html.escape(model.tokenizer.decode([token])).replace("\n", "⏎").replace(" ", "·")
        style = "border:1px solid;border-radius:3px;padding:0 .2em;margin:.1em;display:inline-block"
        if i in marked:
            style += ";background:#cfe0f5;color:#1a1a1a"
            text += f"<sub>{marked[i]}</sub>"
        cells.append(f'<span style="{style}">{text}</span>')
    return f'<div style="line-height:2">{"".join(cells)}</div>'


def answers(prompt: str, texts: Sequence[str], names: Sequence[str]) -> str:
    """Answers to one harmless prompt side by side, under the names of what was done to the model."""
    cells = [html.escape(text.strip() or "(nothing)") + " …" for text in texts]
    return table(names, [cells], prompt)
