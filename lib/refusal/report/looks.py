"""What each concept looks like, the same in every figure, and the two styles: a page's and a slide's.

A series is named in words; the concept is found in its name. Controls are grey, dashed and open, whatever
they are called.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

CONTROL, BAR, PAPER = "0.45", "0.15", "#6a1b9a"  # controls, the bar of a rule, a paper's values

# words in a series' name (a regular expression), colour, marker; the first that fits. Dark: refused.
CONCEPTS = (
    (r"degenerate|broken", "#9a9a9a", "X"),
    (r"refused harmful|\bharmful,? refused", "#a3320b", "s"),
    (r"(accepted|answered|complied) harmful|\bharmful,? (accepted|answered|complied)", "#e69f00", "^"),
    (r"refused harmless|harmless,? refused", "#123f8c", "D"),
    (r"(accepted|answered) harmless|harmless,? (accepted|answered)", "#56b4e9", "o"),
    (r"v_harm\b|harmfulness", "#b8478a", "^"),
    (r"v_refuse\b|\brefusals?\b", "#009e73", "s"),
    (r"\bguard\b", "#117733", "o"),
    (r"pseudo.harmful", "#7f9fd1", "P"),
    (r"\bharmful\b", "#d55e00", "s"),
    (r"\bharmless\b|\bbenign\b|\btwins?\b", "#0072b2", "o"),
    (r"\btruth\b", "#0b6e7f", "D"),
    (r"\bbase\b", "#b8962e", "o"),
    (r"\bpost\b", "#5c4405", "s"),
)
COMPARED = re.compile(r" against | − | minus |cos\(")  # a name of two concepts is a third one
FREE = ("#332288", "#cc6677", "#44aa99", "#999933", "#882255", "#6699cc", "#661100", "#aa4499")
MARKERS, DASHES = "osD^vPX*<>", ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
GREYS = ((0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 2)))


class Style(NamedTuple):
    """Inches (no height: what the figure needs, less than its width), how large text and lines are against a
    page's, and dots per inch.
    """

    width: float
    height: float | None
    scale: float
    dpi: int


STYLES = {"paper": Style(7.0, None, 1.0, 160), "slide": Style(13.3, 7.5, 1.75, 144)}


def concept(series: str) -> tuple[str, str] | None:
    """The colour and the marker of the concept that a series' name holds; None where it holds none of
    `CONCEPTS`, or compares two. In ``a → b`` it is that of a.
    """
    name = series.partition(" → ")[0]
    if COMPARED.search(name):
        return None
    return next(((c, m) for words, c, m in CONCEPTS if re.search(words, name, re.I)), None)


def looks(series: Iterable[str], controls: Collection[str]) -> dict[str, dict]:
    """{series: matplotlib's color, marker, linestyle, markerfacecolor} of a figure's series. Two of one
    concept share its colour, and differ by marker and line.
    """
    found: dict[str, dict] = {}
    free, used = iter(FREE * 9), []
    for name in dict.fromkeys(series):
        if name in controls:
            i = sum(other in controls for other in found)
            found[name] = {
                "color": CONTROL,
                "marker": MARKERS[i % len(MARKERS)],
                "linestyle": GREYS[i % len(GREYS)],
                "markerfacecolor": "white",
            }
            continue
        colour, marker = concept(name) or (next(free), MARKERS[len(used) % len(MARKERS)])
        again = sum(colour == c for c, _ in used)
        if again:
            marker = next((m for m in MARKERS if (colour, m) not in used), marker)
        used.append((colour, marker))
        found[name] = {
            "color": colour,
            "marker": marker,
            "linestyle": DASHES[again % len(DASHES)],
            "markerfacecolor": colour,
        }
    return found
