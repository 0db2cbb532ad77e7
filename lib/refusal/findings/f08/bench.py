"""What prompts of other speakers and images as edits cost: states read on the way, a slot that is patched,
and both against prompts one by one.
"""

from collections.abc import Callable

import torch

from refusal.model.loading import Model
from refusal.trace import decode, reads
from refusal.trace.decode import Decoding, Reading
from refusal.trace.edits import Patch, Row
from refusal.trace.reads import positions
from refusal.trace.roles import Slot, chat_as

AT = ("t_inst", "t_post")


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """Answers with the states of their prompts over answers alone; answers with a patched slot over those
    with the slot as it is; answers and states one by one, in two passes, over both together.
    """
    texts = [p.text for p in prompts[:24]]
    asked = chat_as(model, texts, "assistant", "user")
    pad = model.tokenizer.pad_token or model.tokenizer.eos_token
    held = chat_as(model, texts, slots=Slot("in", pad * 4))
    image = torch.randn(4, model.d_model, generator=torch.Generator().manual_seed(0)) * 0.05
    rows, plain = [Row(p) for p in asked], [Row(p) for p in held]
    patched = [Row(p, (Patch(image, 0, "slot"),)) for p in held]
    how, wanted = Decoding(16), Reading(positions(asked, list(AT)))
    which = {"resid": list(range(model.n_layers + 1))}

    def one_by_one():
        for row in rows[:4]:
            decode.generate_rows(model, [row], how)
            reads.collect_rows(model, [row], list(AT), which)

    t = alternate(
        rounds=3,
        alone=lambda: decode.generate_rows(model, rows, how),
        read=lambda: decode.generate_rows(model, rows, how, wanted=wanted),
        slot=lambda: decode.generate_rows(model, plain, how),
        image=lambda: decode.generate_rows(model, patched, how),
        apart=one_by_one,
    )
    share = t["read"] * 4 / len(rows)
    return [
        f"answers and the states of their prompts / answers alone           {t['read'] / t['alone']:.2f}   "
        "(at most 1.15)",
        f"answers with a patched slot / with the slot as it is              {t['image'] / t['slot']:.2f}   "
        "(at most 1.1)",
        f"one by one in two passes / answers and states together            {t['apart'] / share:.2f}   "
        "(at least 5)",
    ]
