"""Four kinds of figure, each drawn from a table and a few labels; no torch, no model.

`draw` is all there is: notebooks call it through `refusal.report.recorder`, `make figures` calls it again on
the saved files (`refusal.report.pictures`), and both give the same picture. Colours and sizes are in
`refusal.report.looks`.

Columns by kind: ``layers``: panel, series, role, x, value, low, high. ``rates``: panel, series, role, group,
value, low, high, n. ``scatter``: panel, series, role, x, y. ``grid``: panel, row, column, value, and low and
high where known.
"""

import os
from collections.abc import Sequence
from itertools import pairwise, product

# the user's may not be installed here, and matplotlib refuses to be imported then
os.environ["MPLBACKEND"] = "agg"
import matplotlib

matplotlib.use("Agg", force=False)
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from refusal.base.estimate import Estimate
from refusal.report.layout import DOTTED, LABEL, SMALL, Plan, lay_out, theme, wide, wrapped
from refusal.report.looks import BAR, CONTROL, PAPER, STYLES

EDGE = 0.4  # of a group, from its middle: the paper's value stands there
FEW = 3  # no interval is drawn over so few items
MOSTLY = 0.57  # of a picture is plot, where the page allows it
FLAT, LEAST = 0.05, 0.1  # shares that differ by less than the one get an axis as long as the other


def draw(spec: dict, data: pd.DataFrame, style: str = "paper") -> plt.Figure:
    """The figure of `data` for a page or a slide (`refusal.report.looks.STYLES`).

    `spec` holds kind, title, xlabel, ylabel, model, and optionally claims (ids), bars and paper (values to
    compare with: ``{at, label}`` and where they belong, ``panel``, ``group``), ylim, xticks, baseline,
    vlines, columns (of panels), sharey, annotate (False: no numbers in a grid), sample (how many items and
    which intervals, in a few words). Other keys are not drawn.
    """
    size = STYLES[style].scale
    matplotlib.rcdefaults()  # a user's matplotlibrc (TeX, other fonts, a grid) changes no figure
    plt.rcParams.update(theme(size))
    if {"n", "low", "high"} <= set(data):
        data = data.assign(**{side: data[side].where(~(data["n"] <= FEW)) for side in ("low", "high")})
    named = [column for column in ("panel", "group") if column in data]
    plan = Plan(spec, data := data.astype(dict.fromkeys(named, str)), style)
    fig, axes = plt.subplots(
        plan.rows,
        plan.columns,
        figsize=(plan.width, plan.height),
        height_ratios=plan.heights,
        squeeze=False,
        sharex=plan.sharex,
        sharey=plan.sharey,
    )
    for ax, panel in zip(axes.flat, plan.panels, strict=False):
        part = data[data["panel"] == panel] if "panel" in data else data
        _KINDS[spec["kind"]](ax, part, plan)
        _compared(ax, panel, plan)
        ax.set_title(wrapped(plan.titles[panel], plan.width / plan.columns * 0.85, LABEL * size))
    for ax in axes.flat[len(plan.panels) :]:
        ax.remove()
        axes[-2][axes[-1].tolist().index(ax)].tick_params(labelbottom=True)
    drawn = list(axes.flat[: len(plan.panels)])
    if "ylim" not in spec and spec["kind"] in ("layers", "rates"):
        _no_mountain(drawn, plan)
    lay_out(fig, drawn, plan)
    while style == "paper" and _plotted(drawn) < MOSTLY and plan.height < 0.9 * plan.width:
        plan.height += 0.3  # a page has room for a title of several lines
        fig.set_size_inches(plan.width, plan.height)
        lay_out(fig, drawn, plan)
    if spec["kind"] == "grid":
        _numbers(fig, drawn, plan)
    for ax, panel in zip(drawn, plan.panels, strict=True):
        _say_compared(ax, panel, plan)
    return fig


def _plotted(axes) -> float:
    """The share of the picture that its panels take."""
    boxes = Bbox.union([ax.get_position() for ax in axes])
    return boxes.width * boxes.height


def curve(
    x: Sequence[float],
    measured: Estimate | Sequence[float],
    series: str,
    role: str = "effect",
    panel: str | None = None,
) -> list[dict]:
    """Rows of a ``layers`` figure from what was measured along x; plain numbers are drawn without a band."""
    values, bounds = (
        (measured.value, measured.ci95)
        if isinstance(measured, Estimate)
        else (measured, [(None, None)] * len(x))
    )
    head = ({} if panel is None else {"panel": panel}) | {"series": series, "role": role}
    return [
        head | {"x": a, "value": v, "low": lo, "high": hi}
        for a, v, (lo, hi) in zip(x, values, bounds, strict=True)
    ]


def random_curve(x: Sequence[float], draws, series: str, panel: str | None = None) -> list[dict]:
    """Rows of a ``layers`` figure from random directions, `draws` [direction, x]: their mean and range, as a
    control.
    """
    span = list(zip(draws.min(0).tolist(), draws.max(0).tolist(), strict=True))
    spread = Estimate(draws.mean(0).tolist(), span, len(draws))
    return curve(x, spread, series, "control", panel)


def point(
    group: str, measured: Estimate, series: str, role: str = "effect", panel: str | None = None
) -> dict:
    """One row of a ``rates`` figure from a measured value."""
    low, high = measured.ci95 or (None, None)
    head = ({} if panel is None else {"panel": panel}) | {"series": series, "role": role, "group": group}
    return head | {"value": measured.value, "low": low, "high": high, "n": measured.n}


def _present(part, plan) -> list[str]:
    here = set(part["series"])
    return [s for s in plan.series if s in here]


def _layers(ax, part, plan):
    for name in _present(part, plan):
        rows = part[part["series"] == name].sort_values("x")
        every = max(1, len(rows) // 30)
        ax.plot(rows["x"], rows["value"], markevery=every, **plan.looks[name])
        if "low" in rows and rows["low"].notna().any():
            colour = plan.looks[name]["color"]
            ax.fill_between(rows["x"], rows["low"], rows["high"], color=colour, alpha=0.16, linewidth=0)
            alone = rows[_alone(rows["value"])]  # between gaps, where no band has a width
            ax.vlines(
                alone["x"], alone["low"], alone["high"], color=colour, alpha=0.5, linewidth=1.2 * plan.size
            )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if "xticks" in plan.spec:
        ax.set_xticks(plan.spec["xticks"])
    _lines(ax, plan)


def _alone(values: pd.Series) -> pd.Series:
    """Which values have no neighbour."""
    here = values.notna()
    return here & ~here.shift(1, fill_value=False) & ~here.shift(-1, fill_value=False)


def _lines(ax, plan):
    """What helps to read values: a baseline, vertical lines, the limits."""
    spec, thin = plan.spec, {"color": "0.6", "linewidth": 0.8 * plan.size, "zorder": 0}
    if "baseline" in spec:
        (ax.axvline if plan.sideways else ax.axhline)(spec["baseline"], **thin)
    for x in spec.get("vlines", []):
        ax.axvline(x, linestyle=":", **thin)
    if "ylim" in spec:
        (ax.set_xlim if plan.sideways else ax.set_ylim)(*spec["ylim"])


def _rates(ax, part, plan):
    groups = plan.groups[part["panel"].iloc[0] if "panel" in part else ""]
    order, names = list(groups), [s for s in plan.looks if s in set(part["series"])]
    here = {g: [s for s in names if s in set(part.loc[part["group"] == g, "series"])] for g in order}
    step = 0.64 / max(1, len(names))
    for name in names:
        rows = part[part["series"] == name]
        look = plan.looks[name] | {"linestyle": "none"}
        places = [
            order.index(g) + (here[g].index(name) - (len(here[g]) - 1) / 2) * step for g in rows["group"]
        ]
        errors = [(rows["value"] - rows["low"]), (rows["high"] - rows["value"])]
        errors = [e.clip(lower=0).fillna(0) for e in errors]
        x, y, error = (rows["value"], places, "xerr") if plan.sideways else (places, rows["value"], "yerr")
        ax.errorbar(x, y, **{error: errors}, elinewidth=1.2 * plan.size, **look)
    ticks = range(len(order))
    if plan.sideways:
        ax.set_yticks(ticks, groups.values(), fontsize=plan.text * plan.size)
        ax.set_ylim(len(order) - 0.4, -0.6)
    else:
        ax.set_xticks(ticks, groups.values())
        ax.set_xlim(-0.6, len(order) - 0.4)
    ax.tick_params(axis="y" if plan.sideways else "x", length=0)
    for between in ticks[:-1]:
        line = ax.axhline if plan.sideways else ax.axvline
        line(between + 0.5, color="0.92", linewidth=0.7 * plan.size, zorder=-1)
    _lines(ax, plan)


def _scatter(ax, part, plan):
    for line in (ax.axhline, ax.axvline):
        line(0, color="0.7", linewidth=0.8 * plan.size, zorder=0)
    for name in _present(part, plan):
        rows, look = part[part["series"] == name], plan.looks[name]
        control = look["color"] == CONTROL
        ax.scatter(
            rows["x"],
            rows["y"],
            s=(10 if control else 18) * plan.size**2,
            alpha=0.6 if control else 0.8,
            marker=look["marker"],
            facecolors="none" if control else look["color"],
            edgecolors="0.6" if control else "white",
            linewidths=(0.6 if control else 0.3) * plan.size,
        )


def _grid(ax, part, plan):
    table = _table(part, "value")
    largest = plan.data["value"].abs().max()  # one colour scale for all panels
    bare = {"cbar": False, "xticklabels": False, "yticklabels": False}  # labels and scale come below
    sns.heatmap(table, ax=ax, cmap="vlag", vmin=-largest, vmax=largest, **bare)
    ax.set(xlabel="", ylabel="")
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)
    names = [wrapped(str(c), 1.1 * plan.size, SMALL * plan.size) for c in table.columns]
    turned: dict = {}
    if max(map(len, names)) > 6:
        turned = {"rotation": 90 if "\n" in "".join(names) else 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(np.arange(len(names)) + 0.5, names, fontsize=SMALL * plan.size, linespacing=0.95, **turned)
    labels = [wrapped(str(row), 1.0 * plan.size, SMALL * plan.size) for row in table.index]
    ax.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=SMALL * plan.size, linespacing=0.95)


_KINDS = {"layers": _layers, "rates": _rates, "scatter": _scatter, "grid": _grid}


def _table(part, which: str) -> pd.DataFrame:
    table = part.pivot(index="row", columns="column", values=which)
    return table.loc[list(dict.fromkeys(part["row"])), list(dict.fromkeys(part["column"]))]


def _numbers(fig, axes, plan):
    """Write the values into a grid's cells, as much of them as can be read, or add a scale of the colours."""
    size, parts = (
        SMALL * plan.size,
        [plan.data[plan.data["panel"] == p] if "panel" in plan.data else plan.data for p in plan.panels],
    )
    boxes = [ax.get_window_extent() for ax in axes]
    cell = [
        min(b.width / p["column"].nunique() for b, p in zip(boxes, parts, strict=True)) / fig.dpi,
        min(b.height / p["row"].nunique() for b, p in zip(boxes, parts, strict=True)) / fig.dpi,
    ]
    for ax in axes:
        _thin_out(ax.get_yticklabels(), cell[1], plan)
        _thin_out(ax.get_xticklabels(), cell[0], plan)
    for form in _forms(plan.data) if plan.spec.get("annotate", True) else ():
        texts = [form(row) for row in plan.data.itertuples()]
        lines = max(t.count("\n") + 1 for t in texts)
        if max(wide(t, size) for t in set(texts)) < cell[0] * 0.98 and lines * size * 1.15 / 72 < cell[1]:
            break
    else:
        return _colour_scale(fig, axes, plan)
    largest = plan.data["value"].abs().max()
    for ax, part in zip(axes, parts, strict=True):
        table = _table(part, "value")
        rows, columns = list(table.index), list(table.columns)
        for row in part.itertuples():
            ax.text(
                columns.index(row.column) + 0.5,
                rows.index(row.row) + 0.5,
                form(row),
                fontsize=size,
                linespacing=1.0,
                ha="center",
                va="center",
                color="white" if abs(row.value) > 0.65 * largest else "0.1",
            )


def _thin_out(labels, room: float, plan):
    """Leave only as many names of rows or columns as fit, `room` inches apart."""
    if not labels:  # panels beside each other share them
        return
    line = SMALL * plan.size * 1.05 / 72
    upright = any(label.get_rotation() == 0 and label.get_ha() == "center" for label in labels)
    needed = max(
        wide(t, SMALL * plan.size) if upright else line * (t.count("\n") + 1)
        for t in (label.get_text() for label in labels)
    )
    for i, label in enumerate(labels):
        label.set_visible(i % int(np.ceil(needed / room)) == 0)


def _forms(data) -> list:
    """Ways to write a cell, the fullest first."""

    def short(text: str) -> str:
        return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text

    def sure(row) -> str:
        return f"{(row.high - row.low) / 2:.2f}"

    value = "{:z.2f}".format  # no zero with a sign
    plain = [lambda row: value(row.value), lambda row: short(value(row.value))]
    if "low" not in data:
        return plain
    return [
        lambda row: f"{value(row.value)}\n±{sure(row)}",
        lambda row: f"{short(value(row.value))}\n±{short(sure(row))}",
        *plain,
    ]


def _colour_scale(fig, axes, plan):
    edge = 1 - 0.55 * plan.size / plan.width
    lay_out(fig, axes, plan, edge)
    low, high = min(ax.get_position().y0 for ax in axes), max(ax.get_position().y1 for ax in axes)
    across = fig.add_axes(
        (edge + 0.05 * plan.size / plan.width, low, 0.1 * plan.size / plan.width, high - low)
    )
    fig.colorbar(axes[0].collections[0], cax=across)
    across.tick_params(labelsize=SMALL * plan.size)


def _no_mountain(axes, plan):
    """Widen the axis of shares that hardly differ."""
    spec, seen = plan.spec, plan.data[[c for c in ("value", "low", "high") if c in plan.data]].to_numpy(float)
    low, high = np.nanmin(seen), np.nanmax(seen)
    if high - low >= FLAT or low < -1 or high > 1:
        return
    marks = [m["at"] for key in ("bars", "paper") for m in spec.get(key, [])]
    marks += [spec["baseline"]] if "baseline" in spec else []
    middle = (low + high) / 2
    low, high = min([middle - LEAST / 2, *marks]), max([middle + LEAST / 2, *marks])
    margin = (high - low) * 0.04
    for ax in axes:
        (ax.set_xlim if plan.sideways else ax.set_ylim)(low - margin, high + margin)


def _compared(ax, panel, plan):
    """Draw the rule's bars and the paper's values that belong to a panel."""
    for bar, place in plan.marks("bars", panel):
        look = {"color": BAR, "linewidth": 1.2 * plan.size, "linestyle": DOTTED, "zorder": 2.5}
        if place is None:
            (ax.axvline if plan.sideways else ax.axhline)(bar["at"], **look)
        else:
            ends = [place - 0.46, place + 0.46], [bar["at"]] * 2
            ax.plot(*(ends[::-1] if plan.sideways else ends), **look)
    for value, place in plan.marks("paper", panel):
        look = {"color": PAPER, "zorder": 3, "clip_on": False}
        if place is None:
            ends, blend = ([0.97, 1], [value["at"]] * 2), ax.get_yaxis_transform()
            if plan.sideways:
                ends, blend = ends[::-1], ax.get_xaxis_transform()
            ax.plot(*ends, transform=blend, linewidth=2 * plan.size, **look)
        else:
            at = (place + EDGE, value["at"])
            look |= {"marker": "d", "markerfacecolor": "white", "markersize": 5.5 * plan.size}
            ax.plot(*(at[::-1] if plan.sideways else at), linestyle="none", **look)


def _say_compared(ax, panel, plan):
    """Label the bars, where they have several names, and the paper's values where there is room."""
    marks = [
        (mark, place, key)
        for key in ("bars", "paper")
        for mark, place in plan.marks(key, panel)
        if key == "paper" or len({bar["label"] for bar in plan.spec["bars"]}) > 1
    ]
    if not marks:
        return
    ink, taken = _ink(ax), []
    right = (
        ax.figure.bbox.x1 if ax.get_subplotspec().is_last_col() else ax.bbox.x1
    )  # the next panel covers it
    to_figure = ax.figure.transFigure.inverted().transform
    for mark, place, key in marks:
        text = ax.text(
            0,
            0,
            mark["label"],
            fontsize=SMALL * plan.size,
            color=PAPER if key == "paper" else BAR,
            transform=ax.figure.transFigure,
        )
        text.set_path_effects([withStroke(linewidth=2 * plan.size, foreground="white")])
        spots = _spots(ax, mark, place, key, plan)
        for at, ha, va in spots:
            text.set(position=to_figure(at), ha=ha, va=va)
            box = text.get_window_extent()
            inside = ax.bbox.x0 <= box.x0 and box.x1 <= right and ax.bbox.y0 <= box.y0
            free = not any(box.overlaps(other) for other in taken) and not box.count_contains(ink)
            if inside and box.y1 <= ax.bbox.y1 and free:
                taken.append(box)
                break
        else:
            if key == "paper":
                text.remove()
            else:  # behind what is drawn, which it must not hide; in the panel, or else on the page
                text.set_zorder(1)
                for room, (at, ha, va) in product((ax.bbox, ax.figure.bbox), spots):
                    text.set(position=to_figure(at), ha=ha, va=va)
                    box = text.get_window_extent()
                    if room.contains(*box.min) and room.contains(*box.max):
                        break


def _spots(ax, mark, place, key, plan) -> list[tuple]:
    """Where a mark's label may stand, the best first: pixels, and the text's alignment there."""
    whole, gap = place is None, 3 * plan.size * ax.figure.dpi / 72
    ends = (0.955, 0.01, 0.5) if whole else (place + EDGE, place - EDGE, place)
    blend = ax.transData
    if whole:
        blend = ax.get_xaxis_transform() if plan.sideways else ax.get_yaxis_transform()
    found = []
    for end, ha, va in zip(ends, ("right", "left", "center"), ("top", "bottom", "center"), strict=True):
        at = blend.transform((mark["at"], end) if plan.sideways else (end, mark["at"]))
        off = gap if key == "bars" or whole else 2 * gap
        if plan.sideways:
            turned = va if whole else {"top": "bottom", "bottom": "top"}.get(va, va)  # groups run downwards
            found += [(np.add(at, [off, 0]), "left", turned), (np.add(at, [-off, 0]), "right", turned)]
        else:
            found += [(np.add(at, [0, off]), ha, "bottom"), (np.add(at, [0, -off]), ha, "top")]
        if key == "paper":
            shift = np.array([2 * gap, 0])
            beside = [(at - shift, "right", "center"), (at + shift, "left", "center")]
            return found if plan.sideways and whole else beside + found
    return found


def _ink(ax) -> np.ndarray:
    """Points that data are drawn at, close to each other along lines, in pixels [point, 2]."""
    found = [np.empty((0, 2))]
    for line in ax.lines:
        found.append(_along(line.get_transform().transform(line.get_xydata())))
    for collection in ax.collections:
        found.append(ax.transData.transform(np.ma.filled(collection.get_offsets(), np.nan)))
        for path in collection.get_paths() if hasattr(collection, "get_segments") else ():
            found.append(_along(ax.transData.transform(path.vertices)))
    points = np.concatenate(found)
    return points[np.isfinite(points).all(1)]


def _along(points: np.ndarray) -> np.ndarray:
    steps = np.linspace(0, 1, 40)[:, None]
    return np.concatenate([points, *(a + (b - a) * steps for a, b in pairwise(points))])
