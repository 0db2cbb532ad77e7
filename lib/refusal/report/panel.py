"""Steering to try out: a prompt, a direction, a layer and a coefficient give a score and the first words of
the answer, without the edit and with it.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from IPython.display import display

from refusal.base.errors import ParameterError
from refusal.base.progress import widgets
from refusal.trace.decode import generate
from refusal.trace.edits import Add
from refusal.trace.prompts import chat
from refusal.trace.reads import score

if TYPE_CHECKING:
    from refusal.model.loading import Model

BEGIN = 2.0  # the coefficient to begin with: once the direction often changes no word
FEW = 24  # tokens of an answer that are shown at most, for the prompt may be a harmful one


def steering(
    model: "Model",
    directions: Mapping[str, torch.Tensor],
    prompts: Sequence[str],
    readout: Callable | None = None,
    *,
    span: str = "instruction",
    max_new_tokens: int = 12,
) -> None:
    """Show a panel that adds one of `directions`, {name: [layer, d_model]}, to ``h[layer]`` on the `span` of
    a prompt, times a coefficient.

    `prompts` are those to begin with; any other can be typed. `readout` scores the logits after the prompt,
    such as `refusal.measure.readouts.refusal_score`. Answers are greedy and cut to `max_new_tokens`. Where no
    widgets can be (in a terminal, run by the runner, on a page made from the notebook) the first prompt
    stands there as text, under the first direction at the middle layer, twice its length.

    Raises ParameterError for no prompts, directions of another shape, and answers of more than `FEW` tokens.
    """
    if not prompts or not directions:
        raise ParameterError("the panel has no prompts or no directions", "give at least one of each")
    shape = (model.n_layers + 1, model.d_model)
    for name, vectors in directions.items():
        if tuple(vectors.shape) != shape:
            raise ParameterError(
                f"direction {name!r} has the shape {list(vectors.shape)}",
                f"[layer, d_model] of {model.name} is {list(shape)}: a vector for each h[layer]",
            )
    if not 1 <= max_new_tokens <= FEW:
        raise ParameterError(f"max_new_tokens={max_new_tokens} is out of range", f"choose from 1 to {FEW}")

    def compare(setting: Setting) -> pd.DataFrame:
        return effect(model, setting, directions, readout, span, max_new_tokens)

    first = Setting(prompts[0], next(iter(directions)), model.n_layers // 2, BEGIN)
    shown = compare(first)
    edit = f"{first.direction} added at layer {first.layer}, span {span}, coefficient {first.coefficient:g}"
    text = f"{first.prompt}\n{edit}\n\n{shown.T.to_string()}"
    if not widgets():
        print(text)
        return
    panel = controls(first, shown, compare, list(directions), prompts, model.n_layers)
    # a page without widgets shows the text
    display({**panel._repr_mimebundle_(), "text/plain": text}, raw=True)


@dataclass(frozen=True)
class Setting:
    """What the panel is set to."""

    prompt: str
    direction: str
    layer: int
    coefficient: float


def effect(
    model: "Model",
    setting: Setting,
    directions: Mapping[str, torch.Tensor],
    readout: Callable | None,
    span: str,
    max_new_tokens: int,
) -> pd.DataFrame:
    """The score, where there is a `readout`, and the first words of the answer (rows), without the edit of
    `setting` and with it (columns), as text.
    """
    prompts = chat(model, [setting.prompt])
    vector = directions[setting.direction][setting.layer]
    arms = [[], [Add(vector, setting.layer, span, setting.coefficient)]]
    rows = {}
    if readout:
        rows["score"] = [f"{float(s):.2f}" for s in score(model, prompts, readout, arms)[:, 0]]
    rows[f"first {max_new_tokens} tokens"] = [
        repr(said[0]) for said in generate(model, prompts, arms, max_new_tokens)
    ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["without", "with"])


def controls(
    first: Setting,
    shown: pd.DataFrame,
    compare: Callable[[Setting], pd.DataFrame],
    directions: Sequence[str],
    prompts: Sequence[str],
    n_layers: int,
):
    """The panel as a widget, set to `first` with its result `shown`; `compare` is asked when the button is
    pressed, a slider let go or another direction chosen.
    """
    import ipywidgets as w

    wide, style = {"width": "640px"}, {"description_width": "90px"}
    example = w.Dropdown(options=prompts, description="example", layout=wide, style=style)
    prompt = w.Textarea(first.prompt, description="prompt", rows=2, layout=wide, style=style)
    direction = w.Dropdown(options=directions, description="direction", layout=wide, style=style)
    slider = {"continuous_update": False, "layout": wide, "style": style}
    layer = w.IntSlider(first.layer, 0, n_layers, description="layer", **slider)
    coefficient = w.FloatSlider(
        first.coefficient, min=-4, max=4, step=0.25, description="coefficient", **slider
    )
    button = w.Button(description="Compute", button_style="primary")
    result = w.HTML(_table(shown))

    def run(_change=None):
        button.disabled, button.description = True, "Computing …"
        try:
            setting = Setting(prompt.value, direction.value, layer.value, coefficient.value)
            result.value = _table(compare(setting))
        except Exception as error:  # it would go into a log that nobody sees
            result.value = f"<pre>{html.escape(f'{type(error).__name__}: {error}')}</pre>"
        finally:
            button.disabled, button.description = False, "Compute"

    w.dlink((example, "value"), (prompt, "value"))
    button.on_click(run)
    for chosen in (direction, layer, coefficient):
        chosen.observe(run, "value")
    return w.VBox([example, prompt, direction, layer, coefficient, button, result])


def _table(shown: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        plain = shown.to_html(border=0)
    for cell in ("th", "td"):
        plain = plain.replace(f"<{cell}>", f'<{cell} style="text-align: left">')
    return plain
