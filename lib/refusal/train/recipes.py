"""Post-training in the house: small seeded recipes that make another model of a registered one, kept in the
cache like any model.

``python -m refusal.train.recipes NAME FOLDER`` runs one (`refusal.model.sources` starts it when the model is
asked for by name). Training is transformers' Trainer with peft for the low-rank recipes; a run that was cut
goes on from its last checkpoint. Beside the weights lies ``recipe.json``: the recipe, the loss curve,
held-out rates, and the weights' SHA-256.

No recipe makes a model answer harmful requests.
"""

import dataclasses
import importlib
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from refusal.base.errors import UserError
from refusal.base.files import sha256, write_json
from refusal.base.machine import end_with
from refusal.model.registry import RECIPES, Recipe
from refusal.train.batches import left_padded
from refusal.train.tokens import add_tokens, make_room

if TYPE_CHECKING:
    from refusal.model.loading import Model

MAX_LENGTH = 256
# examples per backward pass; gradients add up over a batch, so only memory and time depend on it
TOGETHER = 4


def examples_of(recipe: Recipe, model: "Model") -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) tokens that the recipe's own function makes."""
    module, _, name = recipe.examples.partition(":")
    return getattr(importlib.import_module(module), name)(model, recipe.seed)


def ordered(examples, epochs: int, batch: int, seed: int) -> list:
    """Seeded passes over all examples that are not too long, batch by batch; within a batch alike lengths go
    together, which saves padding.
    """
    rng, length = random.Random(seed), lambda row: len(row[0]) + len(row[1])
    short = [row for row in examples if length(row) <= MAX_LENGTH]
    drawn = [row for _ in range(epochs) for row in rng.sample(short, len(short))]
    return [row for i in range(0, len(drawn), batch) for row in sorted(drawn[i : i + batch], key=length)]


def run(recipe: Recipe, folder: Path) -> None:
    """Train `recipe` into `folder`. Leaves nothing there until all is done; checkpoints lie beside it in the
    meantime.
    """
    import torch
    import transformers
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from refusal.model import loading
    from refusal.model.sources import locate
    from refusal.train.adapters import low_rank

    started = time.monotonic()
    source = locate(recipe.base)
    assert source.folder is not None  # no recipe starts from a constructed model
    work = folder.parent / f"{folder.name}.training"
    examples = examples_of(recipe, loading.load(recipe.base))
    transformers.set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    cpu = not torch.cuda.is_available()
    # eager attention: as in `refusal.train.fit`
    model = AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    ids = add_tokens(tokenizer, recipe.tokens) if recipe.tokens else []
    if ids:
        make_room(model, ids, recipe.seed)
    if recipe.frozen:
        for part in (model.get_input_embeddings(), *model.get_decoder().layers[: recipe.frozen]):
            part.requires_grad_(False)
    adapted = None
    if recipe.method == "low-rank":
        adapted = get_peft_model(model, low_rank(rows=ids))  # of the embeddings the new rows alone

    drawn = ordered(examples, recipe.epochs, recipe.batch, recipe.seed)
    steps = math.ceil(len(drawn) / recipe.batch)
    trainer = Trainer(
        model=model if adapted is None else adapted,
        train_dataset=drawn,
        data_collator=left_padded,
        args=TrainingArguments(
            output_dir=str(work),
            per_device_train_batch_size=TOGETHER,
            gradient_accumulation_steps=recipe.batch // TOGETHER,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            warmup_steps=max(1, steps // 20),
            lr_scheduler_type="cosine",
            use_cpu=cpu,
            bf16=loading.choose_dtype("auto", loading.choose_device()) == torch.bfloat16,
            logging_steps=2,
            save_strategy="steps",
            save_steps=max(10, steps // 3 + 1),
            save_total_limit=1,
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=not sys.stderr.isatty(),
        ),
    )
    saved = sorted(work.glob("checkpoint-*/trainer_state.json"))
    print(
        f"{len(examples)} examples, {steps} steps" + (", going on from the last checkpoint" if saved else ""),
        flush=True,
    )
    trainer.train(resume_from_checkpoint=bool(saved) or None)
    trained = model if adapted is None else cast(transformers.PreTrainedModel, adapted.merge_and_unload())
    if not all(p.isfinite().all() for p in trained.parameters()):
        shutil.rmtree(work)  # its checkpoints may be spoilt as well
        raise UserError(
            f"post-training {recipe.name} ended in weights that are not finite",
            "run it on another device, or report this",
        )
    trained = trained.to(torch.bfloat16).eval()
    partial = folder.parent / f"{folder.name}.done"
    shutil.rmtree(partial, ignore_errors=True)
    trained.save_pretrained(partial)
    tokenizer.save_pretrained(partial)  # ty: ignore[missing-union-attribute]  # its type holds None, for no tokenizers
    digest = sha256(partial / "model.safetensors")
    write_json(
        partial / "recipe.json",
        {
            **dataclasses.asdict(recipe),
            "base_revision": source.revision,
            "sha256": digest,
            "examples": len(examples),
            "tokens": sum(len(p) + len(a) for p, a in drawn),
            "seconds": round(time.monotonic() - started),
            "loss": [
                [entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry
            ],
            "held_out": held_out(
                loading.wrap(trained, tokenizer, name=recipe.name, revision=digest), recipe.tokens
            ),
        },
    )
    os.replace(partial, folder)
    shutil.rmtree(work, ignore_errors=True)


def held_out(model: "Model", tokens: Sequence[str] = (), n: int = 40) -> dict:
    """Refusal rates on prompts that were in no training, one of `tokens` at the beginning left out: {harmful,
    harmless, pseudo_harmful} → {value, ci95, n}.
    """
    from refusal import data
    from refusal.measure import stats
    from refusal.measure.judge import judge
    from refusal.trace.decode import Decoding, generate
    from refusal.trace.prompts import chat

    rates = {}
    tests: dict[str, dict] = {
        "harmful": {"label": "harmful"},
        "harmless": {"source": "harmless"},
        "pseudo_harmful": {"source": "pseudo_harmful"},
    }
    how = Decoding(24, keep_special=bool(tokens))
    for name, which in tests.items():
        texts = generate(model, chat(model, data.prompts("validation", **which)[:n]), decoding=how)[0]
        for token in tokens:
            texts = [text.removeprefix(token) for text in texts]
        rates[name] = dataclasses.asdict(stats.rate([judge(text) == "refusal" for text in texts]))
        print(f"held out: refuses {rates[name]['value']:.0%} of {len(texts)} {name} prompts", flush=True)
    return rates


if __name__ == "__main__":
    end_with(os.getppid())
    run(RECIPES[sys.argv[1]], Path(sys.argv[2]))
