"""Training away over-refusal, in memory: low-rank adapters learn answers to texts that are refused for no
reason, refusals of harmful prompts, and ordinary answers; measured and thrown away.
"""

from collections.abc import Mapping, Sequence

import torch

from refusal.measure.behaviour import behaviour
from refusal.measure.judge import judge
from refusal.model.loading import Model
from refusal.trace import cache, reads
from refusal.trace.decode import generate
from refusal.trace.edits import Ablate
from refusal.trace.prompts import Prompt
from refusal.train.fit import Example, adapted, alike, steps

RATE, BATCH = 2e-4, 8


def answers_without(
    model: Model, prompts: Sequence[Prompt], directions: Sequence[torch.Tensor], max_new_tokens: int
) -> list[str | None]:
    """The model's own answers under the first of `directions` whose ablation refuses least, None where it
    still refuses or breaks.
    """
    arms = [[Ablate(v)] for v in directions]
    said = generate(model, prompts, arms, max_new_tokens, label="answers without refusing")
    kinds = [[judge(t) for t in texts] for texts in said]
    best = max(range(len(arms)), key=lambda k: sum(kind == "answer" for kind in kinds[k]))
    return [t if kind == "answer" else None for t, kind in zip(said[best], kinds[best], strict=True)]


def examples(model: Model, prompts: Sequence[Prompt], answers: Sequence[str | None]) -> list[Example]:
    """(tokens of the prompt, tokens of its answer), of those that have one."""
    ids = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [(list(p.ids), ids(a)) for p, a in zip(prompts, answers, strict=True) if a]


def after(
    model: Model,
    trained_on: Sequence[Example],
    tests: Mapping[str, Sequence[Prompt]],
    paragraphs: Sequence[str],
    n_steps: int,
    seed: int,
    max_new_tokens: int,
    name: str,
) -> dict[str, list]:
    """What a copy that was trained so does: {group: outcomes, "losses", "ce": cross-entropy of each
    paragraph}. Cached on disk.
    """
    key = cache.key(
        model,
        _after,
        trained_on=[list(e) for e in trained_on],
        tests={g: list(p) for g, p in tests.items()},
        paragraphs=list(paragraphs),
        n_steps=n_steps,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    return cache.remember_json(
        key, lambda: _after(model, trained_on, tests, paragraphs, n_steps, seed, max_new_tokens, name)
    )


def _after(
    model: Model, trained_on, tests, paragraphs, n_steps, seed, max_new_tokens, name
) -> dict[str, list]:
    copied = adapted(model.module, seed)
    losses = steps(copied, trained_on, n_steps, RATE, seed, BATCH, label=f"training: {name}")
    learned = alike(model, copied)
    found: dict[str, list] = {
        g: list(behaviour(learned, p, max_new_tokens).outcome) for g, p in tests.items()
    }
    ce = reads.read_text(learned, paragraphs)["loss"].tolist()
    return found | {"losses": losses, "ce": ce}
