"""The answers that were read and labelled, made again: a model's own to test prompts, plain and steered
(``data/judged_answers.csv`` holds their SHA-256 and labels, and no text).
"""

import hashlib

import numpy as np
import pandas as pd

from refusal import data
from refusal.measure import directions
from refusal.measure.judge import judge
from refusal.model.loading import Model
from refusal.trace import decode, reads
from refusal.trace.edits import Add
from refusal.trace.prompts import chat

TOKENS = 48
MOST = "qwen2.5-coder-0.5b-instruct"  # of which more answers were labelled
ARMS = {  # prompts of each arm, for that model and for the others
    "harmful": (80, 40),
    "pseudo_harmful": (50, 30),
    "harmless": (20, 15),
    "cannot": (30, 15),
    "steered_harm": (20, 7),
    "steered_refuse": (20, 7),
    "steered_random": (20, 6),
}


def plain_prompts(arm: str, n: int, seed: int = 0) -> pd.DataFrame:
    """`n` test prompts of an arm: a simple draw without weights."""
    table = (
        data.prompts("test", label="harmful")
        if arm == "harmful"
        else data.prompts("test", source="harmless" if arm.startswith("steered") else arm)
    )
    return data.without_final_punctuation(table.sample(n, random_state=seed + len(arm)))


def steering(model: Model) -> dict[str, Add]:
    """Additions: v_harm at 0.4 and v_refuse at 0.7 of the depth; a random direction of four times v_harm's
    norm, which breaks text.
    """
    made = {
        label: chat(model, data.without_final_punctuation(data.prompts("direction", label=label, n=64)))
        for label in ("harmful", "harmless")
    }
    acts = reads.collect(model, made["harmful"] + made["harmless"], at=["t_inst", "t_post"])["resid"]
    said = [judge(t) for t in decode.generate(model, made["harmful"] + made["harmless"], decoding=12)[0]]
    refused = np.array([k < 64 and o == "refusal" for k, o in enumerate(said)])
    answered = np.array([k >= 64 and o == "answer" for k, o in enumerate(said)])
    v = directions.difference_of_means(acts, refused, answered)  # [layer, position, d_model]
    low, high = round(0.4 * model.n_layers), round(0.7 * model.n_layers)
    random = 4 * directions.random_directions(v[low, 0], 1, 0)[0]
    return {
        "steered_harm": Add(v[low, 0], low, "instruction"),
        "steered_refuse": Add(v[high, 1], high, "prompt"),
        "steered_random": Add(random, low, "prompt"),
    }


def make(model: Model) -> pd.DataFrame:
    """One row per answer of `TOKENS` tokens: prompt_id, model, arm, sha256 of the text, text."""
    edits, rows = steering(model), []
    for arm, sizes in ARMS.items():
        table = plain_prompts(arm, sizes[model.name != MOST])
        texts = decode.generate(
            model, chat(model, table), [[edits[arm]] if arm in edits else []], decoding=TOKENS
        )[0]
        rows += [
            (i, model.name, arm, hashlib.sha256(t.encode()).hexdigest(), t)
            for i, t in zip(table.id, texts, strict=True)
        ]
    return pd.DataFrame(rows, columns=["prompt_id", "model", "arm", "sha256", "text"])
