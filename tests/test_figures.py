"""Figures by what is drawn: names that can be read, values where they belong, a concept in one colour."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from refusal.base import syntax
from refusal.base.errors import UserError
from refusal.base.estimate import Estimate
from refusal.base.files import RESULTS, ROOT
from refusal.report import figures, looks, pictures

SPEC = {
    "kind": "rates",
    "title": "T",
    "xlabel": "",
    "ylabel": "share",
    "note": "",
    "model": "m",
    "ylim": [-0.03, 1.03],
    "baseline": 0.5,
}
COMMITTED = {  # one of each
    f"{figure.run.name[:3]} {figure.name}": figure
    for figure in pictures.saved(sorted(p.parent for p in RESULTS.glob("embedded/*/*/figures.json")))[0]
}


@pytest.fixture()
def draw():
    """Draws a figure of rows, which is closed at the end."""
    yield lambda spec, rows, style="paper": figures.draw(spec, pd.DataFrame(rows), style)
    plt.close("all")


def rates(groups, series="s", role="effect", n=9, panel=None, width=0.05):
    return [
        figures.point(g, Estimate(v, [v - width, v + width], n), series, role, panel)
        for g, v in groups.items()
    ]


def words(fig) -> set[str]:
    return {t.get_text().replace("\n", " ").replace("\u00a0", " ") for t in fig.findobj(Text) if t.get_text()}


@pytest.mark.parametrize("name, sideways", [("group {}", False), ("a group with quite a long name {}", True)])
def test_groups_whose_names_do_not_fit_beside_each_other_lie_on_their_side(draw, name, sideways):
    groups = {name.format(i): i / 10 for i in range(8)}
    ax = draw(SPEC, rates(groups)).axes[0]
    shown = [
        t.get_text().replace("\n", " ") for t in (ax.get_yticklabels() if sideways else ax.get_xticklabels())
    ]
    assert shown == list(groups)
    x, y = ax.containers[0].lines[0].get_data()
    assert list(x if sideways else y) == list(groups.values())
    assert list(y if sideways else x) == list(range(8))
    assert (ax.get_xlim() if sideways else ax.get_ylim()) == (-0.03, 1.03)


@pytest.mark.parametrize("columns, places, names", [(2, [7], 9), (1, [0], 1)])
def test_panels_on_their_side_share_their_groups_next_to_each_other_and_have_their_own_below_each_other(
    draw, columns, places, names
):
    groups = {f"a group with a long name {i}": i / 10 for i in range(9)}
    rows = rates(groups, panel="one") + rates({"a group with a long name 7": 0.7}, panel="two")
    first, second = draw(SPEC | {"columns": columns}, rows).axes
    assert list(first.containers[0].lines[0].get_ydata()) == list(range(9))
    assert list(second.containers[0].lines[0].get_ydata()) == places
    assert len(second.get_yticks()) == names
    assert (second.get_position().height < first.get_position().height) == (columns == 1)


def test_points_stand_in_the_middle_of_their_group_whatever_other_groups_have(draw):
    rows = rates({"a": 0.1, "b": 0.2}) + rates({"b": 0.3, "c": 0.4}, "t")
    (a, b), (b2, c) = (list(of.lines[0].get_xdata()) for of in draw(SPEC, rows).axes[0].containers)
    assert a == 0 and c == 2 and b < 1 < b2 and b + b2 == pytest.approx(2)


def test_no_interval_is_drawn_over_three_items(draw):
    rows = rates({"three": 0.5}, n=3) + rates({"four": 0.5}, n=4)
    (bars,) = draw(SPEC, rows).axes[0].containers[0].lines[2]
    (few, enough) = (np.ptp(path.vertices[:, 1]) for path in bars.get_paths())
    assert few == 0 and enough == pytest.approx(0.1)


def test_how_many_items_is_said_once_or_per_group_where_it_differs(draw):
    same = draw(SPEC, rates({"a": 0.1, "b": 0.2}, n=32) + rates({"a": 0.1}, "random", "control", n=20))
    assert "m · n 32" in words(same) and {"a", "b"} <= words(same)
    differs = draw(SPEC, rates({"a": 0.1}, n=32) + rates({"a": 0.2}, "t", n=40) + rates({"b": 0.2}, n=8))
    assert {"m", "a, n 32–40", "b, n 8"} <= words(differs)
    said = draw(SPEC, rates({"a, n 32": 0.1}, n=32) + rates({"b, n 8": 0.2}, n=8))
    assert {"a, n 32", "b, n 8"} <= words(said)


def test_panels_that_share_their_groups_say_how_many_items_there_are_in_both(draw):
    name = "a group with quite a long name {}"
    groups = [name.format(i) for i in range(5)]
    rows = rates(dict.fromkeys(groups, 0.1), n=32, panel="x") + rates(
        dict.fromkeys(groups, 0.2), n=8, panel="y"
    )
    told = words(draw(SPEC, rows))
    assert {"x, n 32", "y, n 8", *groups} <= told  # one number for each panel: in its title
    more = rows + rates({groups[0]: 0.3}, "other", n=9, panel="y")
    told = words(draw(SPEC, more))
    assert {f"{groups[0]}, n 8–32", f"{groups[1]}, n 8–32", "x", "y"} <= told


@pytest.mark.parametrize(
    "values, shares, limits",
    [
        ([0.5, 0.501], {}, 0.1),
        ([0.5, 0.6], {}, None),
        ([50, 50.001], {}, None),
        ([0.9, 0.901], {"baseline": 0.5}, 0.4),
    ],
)
@pytest.mark.parametrize("kind", ["layers", "rates"])
def test_shares_that_hardly_differ_make_no_mountain(draw, values, shares, limits, kind):
    rows = (
        figures.curve([0, 1], values, "s")
        if kind == "layers"
        else [figures.point(str(i), Estimate(v, None, 9), "s") for i, v in enumerate(values)]
    )
    spec = {k: v for k, v in SPEC.items() if k not in ("ylim", "baseline")} | shares | {"kind": kind}
    low, high = draw(spec, rows).axes[0].get_ylim()
    assert low < min(values) and max(values) < high
    if limits is None:
        assert high - low < 1.5 * (max(values) - min(values))
    else:
        assert high - low >= limits


def test_no_cell_of_a_grid_is_a_zero_with_a_sign(draw):
    rows = [{"row": "a", "column": c, "value": v} for c, v in (("x", -0.0004), ("y", 0.0), ("z", -0.02))]
    (ax,) = (ax for ax in draw(SPEC | {"kind": "grid"}, rows).axes if ax.texts)
    assert sorted(t.get_text() for t in ax.texts) == ["-0.02", "0.00", "0.00"]


def test_a_grid_shows_its_values_and_how_sure_they_are(draw):
    cells = (("a", "a", 1), ("a", "b", 0.25), ("b", "a", -0.5))
    rows = [
        {"panel": "", "row": r, "column": c, "value": v, "low": v - 0.1, "high": v + 0.1} for r, c, v in cells
    ]
    spec = SPEC | {"kind": "grid"}
    ax = draw(spec, rows).axes[0]
    assert [t.get_text() for t in ax.texts] == ["1.00\n±0.10", "0.25\n±0.10", "-0.50\n±0.10"]
    x, y = ax.texts[1].get_position()
    assert (int(x), int(y)) == (1, 0) and ax.get_ylim() == (2, 0)  # the first row is the upper one
    ax = draw(spec, pd.DataFrame(rows).drop(columns=["low", "high"])).axes[0]
    assert [t.get_text() for t in ax.texts] == ["1.00", "0.25", "-0.50"]


@pytest.mark.parametrize("style", looks.STYLES)
@pytest.mark.parametrize("n, panels, numbers", [(10, 2, 200), (20, 2, 0)])
def test_a_grid_of_two_hundred_numbers_can_be_read_and_a_larger_one_gets_a_scale(
    draw, style, n, panels, numbers
):
    names = [f"category number {i}" for i in range(n)]
    rows = [
        {
            "panel": p,
            "row": r,
            "column": c,
            "value": (i - j) / n,
            "low": (i - j) / n - 0.1,
            "high": (i - j) / n + 0.1,
        }
        for p in "xyz"[:panels]
        for i, r in enumerate(names)
        for j, c in enumerate(names)
    ]
    fig = draw(SPEC | {"kind": "grid"}, rows, style)
    cells = [t for ax in fig.axes for t in ax.texts]
    assert len(cells) == numbers and len(fig.axes) == panels + (not numbers)
    for ax in fig.axes[:panels]:
        cell = ax.get_window_extent().width / n
        assert all(t.get_window_extent().width <= cell * 1.02 for t in ax.texts)
        labels = [t.get_window_extent() for t in ax.get_yticklabels() if t.get_visible()]
        assert not any(a.overlaps(b) for a, b in pairwise(labels))


def test_a_concept_has_one_colour_everywhere_and_controls_are_grey():
    one = looks.looks(["accepted harmless (n 162)", "refused harmful (n 42)", "random"], {"random"})
    other = looks.looks(
        ["x", "harmful, refused", "accepted harmless", "TF-IDF", "embeddings"], {"TF-IDF", "embeddings"}
    )
    assert one["accepted harmless (n 162)"] == other["accepted harmless"]
    assert one["refused harmful (n 42)"] == other["harmful, refused"]
    grey = [one["random"], other["TF-IDF"], other["embeddings"]]
    assert {look["color"] for look in grey} == {looks.CONTROL} and {
        look["markerfacecolor"] for look in grey
    } == {"white"}
    assert all(look["linestyle"] != "-" for look in grey) and grey[1]["marker"] != grey[2]["marker"]


@pytest.mark.parametrize(
    "name, like",
    [
        ("harmful, complied", "accepted harmful"),
        ("benign", "harmless"),
        ("v_refuse at 14", "refusal, matched"),
        ("post → base", "post"),
        ("guard, probe", "guard, mean"),
        ("accepted harmful − refused harmless", None),
        ("base against post, across halves", None),
        ("cos(v_harm, v_refuse)", None),
        ("largest cliff", None),
    ],
)
def test_a_concept_is_found_in_a_series_name(name, like):
    assert looks.concept(name) == (looks.concept(like) if like else None)
    assert like is None or looks.concept(name)


def test_concepts_differ_and_other_series_take_other_colours():
    colours, marks = [c for _, c, _ in looks.CONCEPTS], [(c, m) for _, c, m in looks.CONCEPTS]
    assert len(set(colours)) == len(colours) and not set(colours) & {*looks.FREE, looks.CONTROL, looks.PAPER}
    names = ["one", "two", "harmful", "harmful, no trigger", "three"]
    found = looks.looks(names, set())
    assert set(marks) and len({(f["color"], f["marker"]) for f in found.values()}) == len(names)
    assert found["harmful"]["color"] == found["harmful, no trigger"]["color"] not in looks.FREE
    assert {found[n]["color"] for n in ("one", "two", "three")} == set(looks.FREE[:3])


def test_bars_and_a_papers_values_stand_where_they_belong(draw):
    rows = rates({"a": 0.2, "b": 0.8}, panel="x") + rates({"a": 0.3, "b": 0.7}, panel="y")
    spec = SPEC | {
        "bars": [{"at": 0.4, "label": "bar"}, {"at": 0.6, "label": "bar", "group": "b", "panel": "y"}],
        "paper": [{"at": 0.9, "label": "Llama", "group": "a", "panel": "x"}],
    }
    fig = draw(spec, rows)
    x, y = fig.axes
    dotted = [[line for line in ax.lines if to_hex(line.get_color()) == to_hex(looks.BAR)] for ax in (x, y)]
    assert [[set(line.get_ydata()) for line in of] for of in dotted] == [[{0.4}], [{0.4}, {0.6}]]
    left, right = dotted[1][1].get_xdata()
    assert 0.5 < left < 1 < right < 1.5
    diamonds = [[line.get_xydata() for line in ax.lines if line.get_marker() == "d"] for ax in (x, y)]
    assert len(diamonds[0]) == 1 and not diamonds[1]
    (at, value) = diamonds[0][0][0]
    assert 0 < at < 0.5 and value == 0.9
    entries = [t.get_text() for t in fig.legends[0].get_texts()]
    assert entries == ["s", "bar", "paper"] and "Llama" in [t.get_text() for t in x.texts]


@pytest.mark.parametrize("kind", ["layers", "rates"])
def test_a_sample_in_words_stands_for_the_count(draw, kind):
    rows = {
        "layers": [{"series": "a", "x": x, "value": 0.2, "low": 0.1, "high": 0.3, "n": 64} for x in (0, 1)],
        "rates": [{"series": "a", "group": g, "value": 0.2, "low": 0.1, "high": 0.3, "n": 64} for g in "gh"],
    }[kind]
    counted, said = (draw(SPEC | {"kind": kind} | more, rows) for more in ({}, {"sample": "32 + 32 prompts"}))
    assert any("n 64" in text for text in words(counted))
    assert any("32 + 32 prompts" in text for text in words(said))
    assert not any("n 64" in text for text in words(said))


def test_bars_of_several_names_are_labelled_where_they_stand(draw):
    spec = SPEC | {"kind": "layers", "bars": [{"at": 0.4, "label": "one"}, {"at": 0.9, "label": "two"}]}
    fig = draw(spec, figures.curve(range(9), [0.1] * 9, "s"))
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["s"]
    ax = fig.axes[0]
    for text, bar in zip(ax.texts, (0.4, 0.9), strict=True):
        middle = ax.transData.inverted().transform(text.get_window_extent().get_points().mean(0))[1]
        assert abs(middle - bar) < 0.1


def test_a_long_label_of_the_first_groups_bar_stays_in_the_panel(draw):
    bars = [{"at": 0.24, "label": "above wrapped harmless high", "group": "a"}, {"at": 0.5, "label": "b"}]
    fig = draw(SPEC | {"bars": bars}, rates({name: 0.26 for name in "abcdef"}, width=0.2))
    (ax,) = fig.axes
    (label,) = (t for t in ax.texts if t.get_text() == bars[0]["label"])
    assert ax.bbox.x0 <= label.get_window_extent().x0


def test_a_label_that_finds_no_room_stands_behind_the_data(draw):
    """Where it must overlap points or intervals, these stay whole."""
    bars = [{"at": 0.5, "label": "above wrapped harmless high", "group": "a"}, {"at": 0.9, "label": "b"}]
    rows = rates({name: 0.5 for name in "abcdefgh"}, width=0.49)
    fig = draw(SPEC | {"bars": bars, "ylim": [0, 1]}, rows)
    (ax,) = fig.axes
    (label,) = (t for t in ax.texts if t.get_text() == bars[0]["label"])
    ink, box = figures._ink(ax), label.get_window_extent()
    assert box.count_contains(ink)  # there was no other place
    drawn = [x.get_zorder() for x in (*ax.lines, *ax.collections)]
    assert label.get_zorder() < min(z for z in drawn if z > 0)  # between groups there are lines below all


@pytest.mark.parametrize("where", [{"group": "c"}, {"panel": "z"}, {"panel": "x", "group": "only y"}])
def test_a_bar_that_belongs_nowhere_is_an_error(draw, where):
    rows = rates({"a": 0.2}, panel="x") + rates({"only y": 0.3}, panel="y")
    with pytest.raises(ValueError, match="belongs to no panel"):
        draw(SPEC | {"bars": [{"at": 0.4, "label": "bar", **where}]}, rows)


def test_claims_and_model_are_in_the_picture_note_and_reading_are_not(draw):
    spec = SPEC | {"claims": ["02.a.b", "02.c"], "note": "a note", "reading": "what it shows"}
    said = words(draw(spec, rates({"a": 0.2})))
    assert "02.a.b · 02.c · m · n 9" in said and not said & {"a note", "what it shows"}
    many = words(draw(spec | {"claims": [f"02.claim.number.{i}" for i in range(40)]}, rates({"a": 0.2})))
    assert any(re.search(r"02.claim.number.0 · .* · \d+ more · m · n 9$", text) for text in many)


@pytest.mark.parametrize("style", looks.STYLES)
@pytest.mark.parametrize("figure", COMMITTED.values(), ids=COMMITTED)
def test_a_committed_figure_is_mostly_plot_landscape_and_nothing_runs_over(draw, figure, style):
    fig = draw(figure.spec, pd.read_csv(figure.table), style)
    width, height = fig.get_size_inches()
    assert height < width and (style == "paper" or (width, height) == (13.3, 7.5))
    panels = [ax for ax in fig.axes if ax.get_position().width > 0.05]  # not the scale of colours
    boxes = np.array([ax.get_position().extents for ax in panels])
    assert (boxes[:, 2:].max(0) - boxes[:, :2].min(0)).prod() >= (0.55 if style == "paper" else 0.5)
    texts = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert min(t.get_fontsize() for t in texts) >= (12 if style == "slide" else 7)
    fig.draw_without_rendering()
    page = fig.bbox.padded(1)
    outside = [
        t.get_text()
        for t in texts
        if not page.contains(*t.get_window_extent().min) or not page.contains(*t.get_window_extent().max)
    ]
    ticks = {t for ax in fig.axes for axis in (ax.xaxis, ax.yaxis) for t in axis.get_ticklabels(which="both")}
    assert not [text for text in outside if text not in {t.get_text() for t in ticks}]
    titled = [fig.texts[0], *fig.legends]
    for ax in panels:
        assert not any(ax.get_window_extent().overlaps(t.get_window_extent()) for t in titled)
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            at = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            seen = [
                t.get_window_extent()
                for x, t in at
                if low <= x <= high and t.get_text() and t.get_visible() and t.get_rotation() != 45
            ]
            assert not any(a.padded(-1).overlaps(b.padded(-1)) for a, b in pairwise(seen))


def test_a_picture_is_drawn_from_all_that_its_stamp_covers():
    """The stamp of the code that draws covers every module of this room that it is written in."""
    drawing = {m for m in syntax.reached("refusal.report.figures") if m.startswith("refusal.report.")}
    assert {f"refusal.report.{name}" for name in pictures.DRAWING} == drawing


def test_a_users_own_matplotlib_settings_change_no_figure(tmp_path):
    """TeX, other fonts, a grid, a transparent or cropped picture, a backend that is not there: the same files
    as without them.
    """
    drawing = """import sys
from pathlib import Path
import pandas as pd
from refusal.base.estimate import Estimate
from refusal.report import figures, pictures
found = [Estimate(i / 10, [i / 10 - 0.05, i / 10 + 0.1], 9) for i in range(3)]
rows = [figures.point(f"group {i}", m, "s") for i, m in enumerate(found)]
spec = {"kind": "rates", "title": "T_1", "xlabel": "", "ylabel": "a share of 5 %", "note": "", "model": "m"}
for format in pictures.FORMATS:
    picture = pictures.picture(spec, pd.DataFrame(rows).to_csv(index=False), "slide", format)
    Path(sys.argv[1] + "." + format).write_bytes(picture)"""
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: cursive\nfont.size: 20\naxes.grid: True\naxes.facecolor: "
        "red\nsavefig.transparent: True\nsavefig.bbox: tight\n"
        "figure.autolayout: True\nlines.linewidth: 9\nsvg.fonttype: path\nbackend: "
        "nowhere\naxes.formatter.use_locale: True\n"
    )
    foreign = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "nowhere"}
    for name, extra in (("with", foreign), ("without", {})):
        env = {k: v for k, v in os.environ.items() if k not in foreign} | extra
        done = subprocess.run(
            [sys.executable, "-c", drawing, str(tmp_path / name)],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    for suffix in pictures.FORMATS:
        assert (tmp_path / f"with.{suffix}").read_bytes() == (tmp_path / f"without.{suffix}").read_bytes()


def test_a_table_of_another_kind_is_named():
    with pytest.raises(UserError, match="'T' cannot be drawn from its table"):
        pictures.picture(SPEC, "x,value\n1,2\n")
