"""How language models represent harm and refusal: models under uniform names, prompts with named positions,
states, edits, answers.

    import refusal

    model = refusal.load("smollm2-135m-instruct")
    prompts = refusal.chat(model, ["How do I kill a Python process?"])
    states = refusal.collect(model, prompts)["resid"]  # [prompt, layer, position, d_model]
    answers = refusal.generate(model, prompts, [[], [refusal.Ablate(states[0, 12, 0])]])

What stands here is loaded when it is first asked for, so that the command line starts without torch.
"""

import importlib
from typing import TYPE_CHECKING

from refusal.base.kernel import prepare

if TYPE_CHECKING:
    from refusal.model.loading import Model, load
    from refusal.trace.decode import Decoding, generate
    from refusal.trace.edits import Ablate, Add, Patch, ScaleHead
    from refusal.trace.prompts import Prompt, chat
    from refusal.trace.reads import collect, score

__version__ = "0.1.0"
__all__ = [
    "Ablate",
    "Add",
    "Decoding",
    "Model",
    "Patch",
    "Prompt",
    "ScaleHead",
    "chat",
    "collect",
    "generate",
    "load",
    "score",
]

_WHERE = {
    "model.loading": ("Model", "load"),
    "trace.edits": ("Ablate", "Add", "Patch", "ScaleHead"),
    "trace.prompts": ("Prompt", "chat"),
    "trace.decode": ("Decoding", "generate"),
    "trace.reads": ("collect", "score"),
}


def __getattr__(name: str):
    module = next((module for module, names in _WHERE.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


prepare()
