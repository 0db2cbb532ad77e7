"""How a figure is arranged on a page or a slide: panels, which way groups lie, title and legend above them,
the axes' names and the line of model and claims below; and how long a text is.
"""

import re
import textwrap

import numpy as np
import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

from refusal.report.looks import BAR, PAPER, STYLES, looks

TITLE, LABEL, TEXT, SMALL = 10, 8.5, 8, 7  # points on a page
DOTTED = (0, (1, 1.5))


def theme(size: float) -> dict:
    """matplotlib's settings, for text and lines `size` times as large as a page's."""
    points = {
        "font.size": TEXT,
        "axes.titlesize": LABEL,
        "axes.labelsize": LABEL,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "legend.fontsize": TEXT,
        "axes.titlepad": 3,
        "axes.linewidth": 0.8,
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "lines.markeredgewidth": 1,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        "xtick.major.pad": 2.5,
        "ytick.major.pad": 2.5,
    }
    return {name: value * size for name, value in points.items()} | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "0.3",
        "xtick.color": "0.2",
        "ytick.color": "0.2",
        "text.parse_math": False,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "refusal-companion",
        "pdf.fonttype": 42,
    }


class Plan:
    """How a figure is arranged: panels, which way its groups lie, sizes in inches; and what its series look
    like.
    """

    def __init__(self, spec: dict, data: pd.DataFrame, style: str):
        self.spec, self.data, self.style = spec, data, style
        self.size, self.width = STYLES[style].scale, STYLES[style].width
        self.panels = list(dict.fromkeys(data["panel"])) if "panel" in data else [""]
        count = len(self.panels)
        usual, most = {1: 1, 2: 2, 4: 2}.get(count, 3), 3 if style == "paper" else 2
        asked = min(count, spec.get("columns", usual))
        if spec["kind"] == "rates" and count > 2 and len(data.drop_duplicates(["panel", "group"])) > 14:
            asked = usual  # too many groups to lie below each other
        self.columns = asked if -(-count // asked) <= most else max(usual, -(-count // most))
        self.rows = -(-count // self.columns)
        self.series = list(dict.fromkeys(data["series"])) if "series" in data else []
        controls = set(data.loc[data["role"] == "control", "series"]) if "role" in data else set()
        self.looks = looks(self.series, controls)
        self.series.sort(key=lambda name: name not in controls)  # what is drawn first lies below
        self.sideways, self.groups, sizes = False, {}, [1.0] * self.rows
        self.text = TEXT  # points of what groups are called
        self.titles = {panel: str(panel) for panel in self.panels}
        if spec["kind"] == "rates":
            sizes = self._lay_groups()
        needed = {1: 3.9, 2: 5.4}.get(self.rows, 6.2)
        if self.sideways:
            needed = max(1.35 + 0.25 * self.rows + sum(sizes), 5.0)
        elif spec["kind"] == "grid":
            needed = 2.0 + 0.32 * data["row"].nunique()
        self.height = STYLES[style].height or min(max(needed, 3.9), 6.2)  # lower than wide
        self.heights = sizes
        self.handle = 2.2 if spec["kind"] == "layers" else 1.3  # how long a legend's line or mark is, in ems
        shared = spec.get("sharey", True)
        self.sharey = shared and (not self.sideways or self.columns > 1)
        below = spec["kind"] == "layers" and self.columns == 1 and count > 1
        self.sharex = self.sideways or (below and _spans(data) == 1)
        self._check_marks()

    def _lay_groups(self) -> list[float]:
        """Sets what each panel's groups are called and which way they lie; returns the rows' heights where
        they lie on their side.
        """
        data, own = self.data, {}
        numbered = any(re.search(r"\bn\W?\d", str(g)) for g in data["group"])
        differ = len(self.counts()) > 1 and not numbered
        parts = {p: _counts(data[data["panel"] == p]) for p in self.panels} if "panel" in data else {}
        if differ and parts and all(len(counts) == 1 for counts in parts.values()):  # one for each panel
            self.titles = {p: f"{p}, n {counts[0]}" for p, counts in parts.items()}
            differ = False
        for panel in self.panels:
            part = data[data["panel"] == panel] if "panel" in data else data
            own[panel] = {g: _counted(g, part) if differ else str(g) for g in dict.fromkeys(part["group"])}
        room = (self.width - 0.7 * self.size) / self.columns / max(map(len, own.values()))
        names = {name for groups in own.values() for name in groups.values()}
        upright = {name: wrapped(name, room * 0.92, TEXT * self.size) for name in names}
        self.sideways = any(
            text.count("\n") > 2 or wide(text, TEXT * self.size) > room * 0.97 for text in upright.values()
        )
        if self.sideways and self.columns > 1:  # panels side by side share one axis
            every = {g: _counted(g, data) if differ else str(g) for g in dict.fromkeys(data["group"])}
            own = dict.fromkeys(self.panels, every)
            names = set(every.values())
        below = [max(len(own[p]) for p in row) for row in self._panel_rows()]
        shown = self._beside(names, sum(below)) if self.sideways else upright
        self.groups = {panel: {g: shown[name] for g, name in of.items()} for panel, of in own.items()}
        pitch = max(0.24, 0.105 * len(self.series), 0.135 * max(t.count("\n") + 1 for t in shown.values()))
        return [(0.4 + groups) * pitch if self.sideways else 1.0 for groups in below]

    def _panel_rows(self) -> list[list]:
        return [self.panels[i : i + self.columns] for i in range(0, len(self.panels), self.columns)]

    def _beside(self, names: set[str], below: int) -> dict[str, str]:
        """What `below` groups below each other are called at their side: in a quarter of the width, or in a
        little more and smaller, where their lines would run into each other.
        """
        room = (STYLES[self.style].height or 6.2) - (1.1 + 0.25 * self.rows) * self.size
        shown = {name: wrapped(name, 0.24 * self.width, TEXT * self.size) for name in names}
        if below * max(text.count("\n") + 1 for text in shown.values()) * TEXT * self.size * 1.25 / 72 < room:
            return shown
        self.text = SMALL
        return {name: wrapped(name, 0.27 * self.width, SMALL * self.size) for name in names}

    def _check_marks(self) -> None:
        for mark in [*self.spec.get("bars", []), *self.spec.get("paper", [])]:
            places = [self.groups.get(p, ()) for p in self.panels if mark.get("panel", p) == p]
            if not places or not any(mark.get("group") in (None, *groups) for groups in places):
                raise ValueError(f"{mark} belongs to no panel, or no group, of this figure")

    def marks(self, key: str, panel) -> list[tuple[dict, int | None]]:
        """The spec's bars or paper's values of a panel, each with the place of its group there."""
        groups = list(self.groups.get(panel, ()))
        return [
            (mark, groups.index(mark["group"]) if "group" in mark else None)
            for mark in self.spec.get(key, [])
            if mark.get("panel", panel) == panel and mark.get("group") in [None, *groups]
        ]

    def counts(self) -> list[int]:
        return _counts(self.data)


def _spans(data: pd.DataFrame) -> int:
    """How many different stretches of x the panels have."""
    return len({(min(part["x"]), max(part["x"])) for _, part in data.groupby("panel")})


def _counts(rows: pd.DataFrame) -> list[int]:
    """How many items the values stand on, in order; those of controls count other things (random sets)."""
    if "n" not in rows:
        return []
    effects = rows[rows["role"] != "control"] if "role" in rows else rows
    return sorted(int(n) for n in (effects if len(effects) else rows)["n"].dropna().unique())


def _counted(group, part: pd.DataFrame) -> str:
    counts = _counts(part[part["group"] == group])
    span = "–".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))
    return f"{group}, n {span}" if counts else str(group)


def wide(text: str, points: float, weight: str = "normal") -> float:
    """The width of a text's longest line, in inches, with a little to spare: on pixels letters are wider."""
    font = FontProperties(size=points, weight=weight)
    lines = (text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n"))
    return 1.03 * max(lines) / 72


def wrapped(text: str, inches: float, points: float, weight: str = "normal") -> str:
    """`text` in lines of at most `inches`; words stay whole."""
    long = wide(text, points, weight)
    if long <= inches:
        return text
    kept = re.sub(r"(\bn) (?=\d)", "\\1\u00a0", text)
    return textwrap.fill(
        kept, max(6, int(len(text) * inches / long * 0.97)), break_long_words=False, break_on_hyphens=False
    )


def _legend(plan) -> dict[str, Line2D]:
    """{label: handle}: the series, a bar that has one name, the paper."""
    spec, size = plan.spec, plan.size
    line: dict = {} if spec["kind"] == "layers" else {"linestyle": "none"}
    found = {name: Line2D([], [], **(look | line)) for name, look in plan.looks.items()}
    if len(names := {bar["label"] for bar in spec.get("bars", [])}) == 1:
        found[names.pop()] = Line2D([], [], color=BAR, linestyle=DOTTED, linewidth=1.2 * size)
    if values := spec.get("paper", []):
        look: dict = {
            "marker": "d",
            "linestyle": "none",
            "markersize": 5.5 * size,
            "markerfacecolor": "white",
        }
        if not all("group" in value for value in values):
            look = {"linewidth": 2 * size}
        found["paper"] = Line2D([], [], color=PAPER, **look)
    return found


def lay_out(fig, axes, plan, edge: float = 1.0):
    """Title and legend above, axes' names and the line of model and claims below, the rest for the panels."""
    spec, size, width, height = plan.spec, plan.size, plan.width, plan.height
    for old in [*fig.texts, *fig.legends]:
        old.remove()
    side, room = 0.08 * size, width - 0.16 * size
    row = 1.25 / 72 * size  # inches of a line of text, for a point of its size
    title = wrapped(spec["title"], room, TITLE * size, "bold")
    top = 0.07 * size
    fig.text(
        side / width,
        1 - top / height,
        title,
        fontsize=TITLE * size,
        weight="bold",
        va="top",
        linespacing=1.15,
    )
    top += (title.count("\n") + 1) * TITLE * row + 0.03 * size
    handles = _legend(plan)
    if handles:
        across = _across(list(handles), plan.handle, room, TEXT * size)
        fig.legend(
            handles.values(),
            handles.keys(),
            loc="upper left",
            ncols=across,
            bbox_to_anchor=(side / width, 1 - top / height),
            borderaxespad=0,
            borderpad=0,
            handlelength=plan.handle,
            handletextpad=0.5,
            columnspacing=1.3,
            labelspacing=0.25,
        )
        top += -(-len(handles) // across) * TEXT * row + 0.07 * size
    below, claims = 0.05 * size, list(spec.get("claims", []))
    counts = plan.counts()
    sample = spec.get("sample") or (f"n {counts[0]}" if len(counts) == 1 else "")
    about = list(filter(None, [spec["model"], sample]))
    line = "\u00a0· ".join([*claims, *about])
    while claims and wide(line, SMALL * size) > 1.9 * room:
        claims.pop()
        line = "\u00a0· ".join([*claims, f"{len(spec['claims']) - len(claims)} more", *about])
    line = wrapped(line, room, SMALL * size)
    fig.text(side / width, below / height, line, fontsize=SMALL * size, color="0.35", va="bottom")
    below += (line.count("\n") + 1) * SMALL * row + 0.03 * size
    xlabel, ylabel = spec["xlabel"], spec["ylabel"]
    if plan.sideways:
        xlabel, ylabel = ylabel, xlabel
    xlabel = wrapped(xlabel, room * 0.9, LABEL * size)
    lines = xlabel.count("\n") + 1 if xlabel else 0
    ylabel = wrapped(ylabel, (height - top - below) * 0.8, LABEL * size)
    left = side + (ylabel.count("\n") + 1.3 if ylabel else 0) * LABEL * row
    bottom = below + lines * LABEL * row
    fig.subplots_adjust(  # about right, so that the ticks are those of the end
        (left + 0.4 * size) / width,
        (bottom + 0.25 * size) / height,
        edge - 0.01,
        1 - (top + 0.2) / height,
        0.1,
        0.3,
    )
    fig.tight_layout(
        pad=0.15,
        h_pad=0.7,
        w_pad=0.9,
        rect=(left / width, bottom / height, edge - 0.05 * size / width, 1 - top / height),
    )
    boxes = Bbox.union([ax.get_position() for ax in axes])
    centre = (boxes.x0 + boxes.x1) / 2, (boxes.y0 + boxes.y1) / 2
    look = {"fontsize": LABEL * size, "ha": "center", "linespacing": 1.1}
    fig.supxlabel(xlabel, x=centre[0], y=below / height, va="bottom", **look)
    fig.supylabel(ylabel, x=side / width, y=centre[1], va="center", rotation=90, **look | {"ha": "left"})


def _across(labels: list[str], handle: float, inches: float, points: float) -> int:
    """How many legend entries fit beside each other: a column is as wide as its longest."""
    lengths = [wide(label, points) + (handle + 0.55) * points / 72 for label in labels]
    for across in range(len(labels), 1, -1):
        columns = [max(part) for part in np.array_split(lengths, across)]
        if sum(columns) + 1.3 * points / 72 * (across - 1) < inches:
            return across
    return 1
