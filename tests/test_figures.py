"""Figures by what is drawn: names that can be read, values where they belong."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from refusal.base.estimate import Estimate
from refusal.base.files import ROOT
from refusal.report import figures

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


@pytest.mark.parametrize("n", [figures.SIDEWAYS, figures.SIDEWAYS + 1])
def test_rates_of_many_groups_lie_on_their_side(n):
    rows = [
        figures.point(f"group {i}", Estimate(i / 10, [i / 10 - 0.05, i / 10 + 0.1], 9), "s") for i in range(n)
    ]
    fig = figures.draw(SPEC, pd.DataFrame(rows))
    ax = fig.axes[0]
    sideways = n > figures.SIDEWAYS
    names = [
        t.get_text().replace("\n", " ") for t in (ax.get_yticklabels() if sideways else ax.get_xticklabels())
    ]
    assert names == [f"group {i}" for i in range(n)]
    x, y = ax.containers[0].lines[0].get_data()
    assert list(x if sideways else y) == [i / 10 for i in range(n)]
    assert (ax.get_xlabel() if sideways else ax.get_ylabel()) == "share"
    assert fig.get_figwidth() < 10
    plt.close(fig)


@pytest.mark.parametrize(
    "columns, places, names", [(2, [7], [f"group {i}" for i in range(9)]), (1, [0], ["group 7"])]
)
def test_panels_on_their_side_share_their_groups_next_to_each_other_and_have_their_own_below_each_other(
    columns, places, names
):
    rows = [figures.point(f"group {i}", Estimate(i / 10, None, 9), "s", panel="one") for i in range(9)]
    rows += [figures.point("group 7", Estimate(0.7, None, 9), "s", panel="two")]
    fig = figures.draw(SPEC | {"columns": columns}, pd.DataFrame(rows))
    first, second = (list(ax.containers[0].lines[0].get_ydata()) for ax in fig.axes)
    assert first == list(range(9)) and second == places
    if columns == 1:
        assert [t.get_text() for t in fig.axes[1].get_yticklabels()] == names and fig.axes[
            1
        ].get_position().height < fig.axes[0].get_position().height
    plt.close(fig)


def test_a_grid_shows_its_values_and_how_sure_they_are():
    cells = (("a", "a", 1), ("a", "b", 0.25), ("b", "a", -0.5))
    rows = [
        {"panel": "", "row": r, "column": c, "value": v, "low": v - 0.1, "high": v + 0.1} for r, c, v in cells
    ]
    spec = SPEC | {"kind": "grid"}
    fig = figures.draw(spec, pd.DataFrame(rows))
    assert [t.get_text() for t in fig.axes[0].texts] == ["1.00\n±0.10", "0.25\n±0.10", "-0.50\n±0.10"]
    plt.close(fig)
    fig = figures.draw(spec, pd.DataFrame(rows).drop(columns=["low", "high"]))
    assert [t.get_text() for t in fig.axes[0].texts] == ["1.00", "0.25", "-0.50"]
    plt.close(fig)


def test_a_users_own_matplotlib_settings_change_no_figure(tmp_path):
    """TeX, other fonts, a grid, a transparent or cropped picture, a backend that is not there: the same files
    as without them.
    """
    drawing = """import sys
from pathlib import Path
import pandas as pd
from refusal.base.estimate import Estimate
from refusal.report import figures
found = [Estimate(i / 10, [i / 10 - 0.05, i / 10 + 0.1], 9) for i in range(3)]
rows = [figures.point(f"group {i}", m, "s") for i, m in enumerate(found)]
spec = {"kind": "rates", "title": "T_1", "xlabel": "", "ylabel": "a share of 5 %", "note": "", "model": "m"}
figures.save(figures.draw(spec, pd.DataFrame(rows)), Path(sys.argv[1]))"""
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
    for suffix in (".svg", ".png"):
        assert (tmp_path / f"with{suffix}").read_bytes() == (tmp_path / f"without{suffix}").read_bytes()
