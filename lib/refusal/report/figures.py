"""One style and four kinds of figure, each drawn from a CSV file and a few labels; no torch, no model.

`draw` is all there is: notebooks call it through `refusal.report.recorder`, `make figures` calls it again on
the saved files, and both give the same picture. Series in the role ``control`` are grey and dashed, so that
the effect is told from its control in grey print.

Columns by kind: ``layers``: panel, series, role, x, value, low, high. ``rates``: panel, series, role, group,
value, low, high, n. ``scatter``: panel, series, role, x, y. ``grid``: panel, row, column, value, and low and
high where known.
"""

import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

# the user's may not be installed here, and matplotlib refuses to be imported then
os.environ["MPLBACKEND"] = "agg"
import matplotlib

matplotlib.use("Agg", force=False)
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from refusal.base.errors import UserError
from refusal.base.estimate import Estimate
from refusal.base.files import FIGURES, NOTEBOOKS, RESULTS, lock, notebook_hash, sha256, write_json, writing
from refusal.model.names import shown_name

SIDEWAYS = 7  # a ``rates`` figure of more groups lies on its side, so that their names can be read
MARKERS, DASHES = "osD^vP*X<>", ["-", "--", "-.", (0, (3, 1, 1, 1)), (0, (5, 1)), (0, (1, 1))]
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "refusal-companion",
    "figure.dpi": 100,
}


def draw(spec: dict, data: pd.DataFrame) -> plt.Figure:
    """The figure of `data`. `spec` holds kind, title, xlabel, ylabel, note, model, and optionally ylim,
    xticks, baseline and vlines.
    """
    matplotlib.rcdefaults()  # a user's matplotlibrc (TeX, other fonts, a grid) changes no figure
    sns.set_theme(style="ticks", palette="colorblind", rc=STYLE)
    panels = list(dict.fromkeys(data["panel"])) if "panel" in data else [""]
    columns = min(len(panels), spec.get("columns", 2))
    rows = -(-len(panels) // columns)
    height = {"rates": 2.6, "scatter": 3.6}.get(spec["kind"], 2.9)
    if spec["kind"] == "grid":
        # two lines in a cell, or one
        height = max(3.2, 1.2 + (0.36 if "low" in data else 0.15) * data["row"].nunique())
    groups = data["group"].nunique() if "group" in data else 0
    spec = spec | {"sideways": groups > SIDEWAYS}
    heights, stacked = [height] * rows, spec["sideways"] and columns == 1
    if spec["sideways"]:
        spec = spec | {"xlabel": spec["ylabel"], "ylabel": spec["xlabel"]}
        if not stacked:
            spec["groups"] = list(dict.fromkeys(data["group"]))  # panels side by side share one axis
        per_panel = (
            data.groupby("panel", sort=False)["group"].nunique().tolist()
            if stacked and "panel" in data
            else [groups] * rows
        )
        heights = [0.5 + n * max(0.26, 0.11 * data["series"].nunique()) for n in per_panel]
    width = max(5.2, 4.3 * columns, 0 if spec["sideways"] else 1.25 * columns * groups)
    if spec["kind"] == "grid":
        width = columns * max(
            4.3, 1.6 + 0.42 * data["column"].nunique() + 0.05 * data["row"].astype(str).str.len().max()
        )
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, sum(heights) + 0.9),
        height_ratios=heights,
        squeeze=False,
        sharey=spec.get("sharey", True) and not stacked,
    )
    if spec["kind"] == "grid":  # one colour scale for all panels
        spec = spec | {"largest": data["value"].abs().max()}
    series = list(dict.fromkeys(data["series"])) if "series" in data else []
    colours = dict(
        zip(
            [s for s in series if s not in _controls(data)], sns.color_palette("colorblind", 10), strict=False
        )
    )
    for ax, panel in zip(axes.flat, panels, strict=False):
        part = data[data["panel"] == panel] if "panel" in data else data
        _KINDS[spec["kind"]](ax, part, spec, colours, series)
        ax.set_title(panel)
        ax.set_xlabel(spec["xlabel"])
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(textwrap.fill(spec["ylabel"], 30))
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    handles = {
        label: handle
        for ax in fig.axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    fig.suptitle(
        textwrap.fill(spec["title"], int(10.5 * width)), fontsize=11, x=0.01, ha="left", weight="bold"
    )
    note = textwrap.fill(f"{spec['model']} · {spec['note']}", int(16.5 * width))
    inches = fig.get_figheight()
    below = 0.14 * (note.count("\n") + 1) + 0.08  # of the note, in inches
    across = max(1, min(2 * columns, len(handles), int(14 * width / (max(map(len, handles), default=1) + 8))))
    legend = 0.2 * -(-len(handles) // across) + 0.05 if handles else 0
    fig.tight_layout(rect=(0, (below + legend) / inches, 1, 1))
    if handles:
        at = (0.5, below / inches)
        fig.legend(
            handles.values(),
            handles.keys(),
            loc="lower center",
            ncols=across,
            bbox_to_anchor=at,
            borderaxespad=0,
        )
    fig.text(0.01, 0.008, note, fontsize=7, color="0.35", va="bottom")
    return fig


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


def _controls(data) -> set:
    return set(data.loc[data["role"] == "control", "series"]) if "role" in data else set()


def _look(name, data, colours, series) -> dict:
    i = series.index(name)
    if name in _controls(data):
        return {
            "color": "0.45",
            "linestyle": "--",
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 3.5,
            "markerfacecolor": "white",
        }
    return {
        "color": colours[name],
        "linestyle": DASHES[i % len(DASHES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 4,
    }


def _layers(ax, data, spec, colours, series):
    for name in [s for s in series if s in set(data["series"])]:
        part = data[data["series"] == name].sort_values("x")
        look = _look(name, data, colours, series)
        ax.plot(part["x"], part["value"], label=name, linewidth=1.4, **look)
        if part["low"].notna().any():
            ax.fill_between(
                part["x"], part["low"], part["high"], color=look["color"], alpha=0.18, linewidth=0
            )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "xticks" in spec:
        ax.set_xticks(spec["xticks"])
    _lines(ax, spec)


def _lines(ax, spec):
    if "baseline" in spec:
        ax.axhline(spec["baseline"], color="0.6", linewidth=0.8, zorder=0)
    for x in spec.get("vlines", []):
        ax.axvline(x, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    if "ylim" in spec:
        ax.set_ylim(*spec["ylim"])


def _rates(ax, data, spec, colours, series):
    sideways, groups = spec["sideways"], spec.get("groups") or list(dict.fromkeys(data["group"]))
    present = [s for s in series if s in set(data["series"])]
    width = 0.7 / max(1, len(present))
    for k, name in enumerate(present):
        part = data[data["series"] == name]
        look = _look(name, data, colours, series) | {"linestyle": "none"}
        places = [groups.index(g) + (k - (len(present) - 1) / 2) * width for g in part["group"]]
        errors = [
            (part["value"] - part["low"]).clip(lower=0).fillna(0),
            (part["high"] - part["value"]).clip(lower=0).fillna(0),
        ]
        x, y, error = (part["value"], places, "xerr") if sideways else (places, part["value"], "yerr")
        ax.errorbar(x, y, **{error: errors}, label=name, capsize=2, elinewidth=1.2, **look)
    if sideways:
        ax.set_yticks(range(len(groups)), groups)
        ax.set_ylim(len(groups) - 0.4, -0.6)
        if "baseline" in spec:
            ax.axvline(spec["baseline"], color="0.6", linewidth=0.8, zorder=0)
        ax.set_xlim(*spec.get("ylim", ax.get_xlim()))
    else:
        ax.set_xticks(
            range(len(groups)),
            [textwrap.fill(str(g).replace(", n ", ", n\u00a0"), 14, break_long_words=False) for g in groups],
        )
        ax.set_xlim(-0.6, len(groups) - 0.4)
        _lines(ax, spec)


def _scatter(ax, data, spec, colours, series):
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    for name in [s for s in series if s in set(data["series"])]:
        part, colour = data[data["series"] == name], "0.6" if name in _controls(data) else colours[name]
        ax.scatter(
            part["x"],
            part["y"],
            s=16,
            alpha=0.75,
            color=colour,
            marker=MARKERS[series.index(name)],
            linewidths=0.3,
            edgecolors="white",
            label=name,
        )


def _grid(ax, data, spec, colours, series):
    data = data.assign(text=[f"{v:.2f}" for v in data["value"]])
    if "low" in data:
        data["text"] += [
            f"\n±{(high - low) / 2:.2f}" for low, high in zip(data["low"], data["high"], strict=True)
        ]
    table, text = (
        data.pivot(index="row", columns="column", values=which).loc[
            list(dict.fromkeys(data["row"])), list(dict.fromkeys(data["column"]))
        ]
        for which in ("value", "text")
    )
    annotate = spec.get("annotate", True)
    sns.heatmap(
        table,
        ax=ax,
        annot=text if annotate else False,
        fmt="",
        cmap="vlag",
        vmin=-spec["largest"],
        vmax=spec["largest"],
        cbar=not annotate,
        annot_kws={"size": 8 if table.shape[1] < 7 else 6},
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    long = max(len(str(c)) for c in table.columns) > 6
    ax.set_xticks(
        ax.get_xticks(), ax.get_xticklabels(), rotation=45 if long else 0, ha="right" if long else "center"
    )


_KINDS = {"layers": _layers, "rates": _rates, "scatter": _scatter, "grid": _grid}


def save(fig: plt.Figure, stem: Path) -> None:
    """Write ``<stem>.svg`` and ``<stem>.png``, without a date in them, so that the same data gives the same
    file.
    """
    formats: dict[str, dict] = {
        ".svg": {"metadata": {"Date": None}},
        ".png": {"dpi": 160, "metadata": {"Software": None}},
    }
    for suffix, options in formats.items():
        with writing(stem.with_suffix(suffix)) as temporary:
            fig.savefig(temporary, format=suffix[1:], facecolor="white", **options)


def redraw(run: Path, into: Path) -> list[str]:
    """Draw every figure of one results folder from its CSV files; returns their names.

    Raises UserError where they cannot be read.
    """
    try:
        specs = json.loads((run / "figures.json").read_text(encoding="utf-8"))
        tables = {name: pd.read_csv(run / "data" / f"{name}.csv") for name in specs}
    except (OSError, ValueError) as error:
        raise UserError(
            f"the figures of {run} cannot be read: {error}", "run that again, or remove its folder"
        ) from error
    for name, spec in specs.items():
        fig = draw(spec, tables[name])
        save(fig, into / name)
        plt.close(fig)
    return list(specs)


def update_manifest() -> None:
    """``figures/manifest.json``: for every saved figure of a real run its data, notebook, parameters and
    model. Smoke runs stay out.
    """
    with lock(FIGURES / ".manifest", "the figure manifest"):
        manifest = {}
        for path in sorted(RESULTS.glob("*/*/*/figures.json")):
            run = path.parent
            tier, model, notebook = run.parts[-3:]
            source = NOTEBOOKS / f"{notebook.partition('@')[0]}.ipynb"
            if tier == "smoke" or not (run / "run.json").exists() or not source.exists():
                continue
            about = json.loads((run / "run.json").read_text(encoding="utf-8"))
            parameters = {
                k: shown_name(v) if k in about.get("names_models", ()) else v
                for k, v in about["parameters"].items()
            }
            for name in json.loads(path.read_text(encoding="utf-8")):
                data = run / "data" / f"{name}.csv"
                if not data.exists():
                    continue
                manifest[f"{tier}/{model}/{notebook}/{name}"] = {
                    "data": data.relative_to(RESULTS.parent).as_posix(),
                    "data_sha256": sha256(data),
                    "notebook": f"notebooks/{source.name}",
                    "notebook_sha256": notebook_hash(source),
                    "parameters": parameters,
                    "model": about["model"]["name"],
                }
        if manifest:
            write_json(FIGURES / "manifest.json", manifest)
