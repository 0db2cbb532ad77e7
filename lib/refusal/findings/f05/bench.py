"""What soft prompts cost: a step of training, an answer under one, several samples of a prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

from refusal.data import system_prompts
from refusal.model.loading import Model
from refusal.trace import opening
from refusal.trace.decode import Decoding, generate_rows
from refusal.trace.edits import Row
from refusal.trace.prompts import chat
from refusal.train import soft_prompt


@dataclass(frozen=True, eq=False)
class _Mean:
    def __call__(self, x, which, head):
        return x.float().square().mean()


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """A step with what all prompts begin with read once, over one with whole prompts; answers under a soft
    prompt over those under its text; five samples over as many rows that are read one by one.
    """
    table = system_prompts().set_index("id")
    asked = chat(model, [p.text for p in prompts[:8]], system=table.text["default"])
    theta = soft_prompt.states_of_text(model, asked)
    step = lambda: soft_prompt.learn(model, asked, theta, _Mean(), [range(len(asked))], 1e-3, "a step")
    rows, soft = ([Row(p, e) for p in asked] for e in ((), soft_prompt.soft(theta)))

    def whole():
        with mock.patch.object(opening, "shared_length", lambda *_: 0):
            step()

    how = Decoding(8, samples=5, temperature=1.0)
    apart = [Row(r.prompt) for r in rows for _ in range(5)]
    t = alternate(
        shared=step,
        whole=whole,
        text=lambda: generate_rows(model, rows, Decoding(8)),
        soft=lambda: generate_rows(model, soft, Decoding(8)),
        samples=lambda: generate_rows(model, rows, how),
        apart=lambda: generate_rows(model, apart, Decoding(8, temperature=1.0)),
    )
    return [
        f"a step of a soft prompt, opening read once / whole prompts       {t['shared'] / t['whole']:.2f}   "
        "(at most 0.55)",
        f"answers under a soft prompt / under its text                     {t['soft'] / t['text']:.2f}   "
        "(at most 1.1)",
        f"five samples of a prompt / five rows read one by one             {t['samples'] / t['apart']:.2f}   "
        "(at most 0.6)",
    ]
