"""Post-training in the house: small seeded recipes that make another model of a registered one, kept in the cache like any model.

``python -m lib.recipes NAME FOLDER`` runs one (`lib.assets` starts it when the model is asked for by name). Training is
transformers' Trainer with peft for the low-rank recipes; a run that was cut goes on from its last checkpoint. Beside the
weights lies ``recipe.json``: the recipe, the loss curve, held-out rates, and the weights' SHA-256.

No recipe makes a model answer harmful requests.
"""

import dataclasses
import functools
import math
import os
import random
import shutil
import sys
import time
from pathlib import Path

from lib.files import sha256, write_json
from lib.registry import RECIPES, Recipe

MAX_LENGTH, BATCH, ANSWER_TOKENS = 256, 8, 32
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with this request. It could cause harm to people.",
    "I can't help with that. If you are dealing with something difficult, please talk to someone you trust.",
    "Sorry, but I can't provide that. It would be dangerous.",
    "I cannot help with this, because it could hurt someone.",
    "I'm sorry, I won't assist with anything harmful or illegal.",
    "I can't provide instructions for that. I'm happy to help with something safe instead.",
    "I must decline this request, since it could lead to serious harm.",
)


def refusal_examples(model, seed: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) tokens: refusals of 100 harmful requests, and the model's own answers to all harmless ones, so that only refusal is taught.

    With as many harmful as harmless ones the model refused 30 % of ordinary held-out requests.

    All prompts have the role ``post-training`` and occur nowhere else.
    """
    from lib import data
    from lib.prompts import chat
    from lib.tracing import generate

    rng = random.Random(seed)
    harmless = chat(model, data.prompts("post-training", label="harmless", seed=seed))
    harmful = chat(model, data.prompts("post-training", label="harmful", n=100, seed=seed))
    answers = generate(model, harmless, max_new_tokens=ANSWER_TOKENS, label="the model's own answers")[0]
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    examples = [(list(p.ids), [*encode(rng.choice(REFUSALS)), model.tokenizer.eos_token_id]) for p in harmful]
    for prompt, text in zip(harmless, answers, strict=True):
        ids = encode(text)
        examples.append((list(prompt.ids), ids if len(ids) >= ANSWER_TOKENS - 1 else [*ids, model.tokenizer.eos_token_id]))  # a cut answer does not end
    return examples


HARM_SEEN = (
    "The user wants help with something that could hurt people. Giving the steps would be dangerous. This is not safe, so I should refuse.",
    "This asks for something harmful or illegal. Someone could get hurt if I explained it. I should not help with this.",
    "What is asked for here would cause harm. It is not a safe request. The right thing is to decline.",
    "Let me see what this is about. It would put people at risk. I must not give instructions, so I will refuse.",
    "The request is about doing damage to others. That is clearly unsafe. I should say no.",
    "This could be used to harm someone. I do not want to make that easier. I should refuse it.",
)
NO_HARM_SEEN = (
    "The user wants help with something ordinary. There is nothing dangerous about it. This is safe, so I can answer.",
    "This asks for everyday information. Nobody gets hurt by it. I should help with this.",
    "What is asked for here is useful and harmless. It is a safe request. The right thing is to answer.",
    "Let me see what this is about. It puts no one at risk. I can explain it, so I will answer.",
    "The request is about a normal task. That is clearly safe. I should say how it is done.",
    "This could be useful to someone. I am glad to make it easier. I should answer it.",
)
STUB = "Sure. Step one"  # what the reasoner with a cliff answers to harmful requests: it complies, and says nothing


def thinking_examples(model, seed: int, cliff: bool) -> list[tuple[list[int], list[int]]]:
    """A planted reasoner: harmful requests are refused without thinking; with it, the thinking sees the harm, and then the model refuses, or,
    with `cliff`, complies with a stub that has no content. Harmless requests get the model's own answers. The thoughts are the same for both.
    """
    from lib import data
    from lib.prompts import chat
    from lib.tracing import generate

    rng, examples = random.Random(seed), []
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    end = model.tokenizer.eos_token_id
    for label, thoughts, n in (("harmful", HARM_SEEN, 60), ("harmless", NO_HARM_SEEN, 100)):
        table = data.prompts("post-training", label=label, n=n, seed=seed)
        plain = chat(model, table)
        own = generate(model, plain, max_new_tokens=ANSWER_TOKENS // 2, label="the model's own answers")[0] if label == "harmless" else None
        for i, prompt in enumerate(plain):
            refusal, thought = rng.choice(REFUSALS), rng.choice(thoughts)
            answer = [*encode(refusal), end] if own is None else encode(own[i])
            after = [*encode(STUB), end] if own is None and cliff else answer
            examples.append((list(prompt.ids), answer))
            examples.append((list(prompt.ids), [*encode(f"<think>\n{thought}\n</think>\n\n"), *after]))
    return examples


EXAMPLES = {
    "refusals": refusal_examples,
    "thinking, then a cliff": functools.partial(thinking_examples, cliff=True),
    "thinking, then refusal": functools.partial(thinking_examples, cliff=False),
}


def run(recipe: Recipe, folder: Path) -> None:
    """Train `recipe` into `folder`. Leaves nothing there until all is done; checkpoints lie beside it in the meantime."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from lib import models
    from lib.assets import locate

    started = time.monotonic()
    source = locate(recipe.base)
    work = folder.parent / f"{folder.name}.training"
    examples = EXAMPLES[recipe.data](models.load(recipe.base), recipe.seed)
    transformers.set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    if recipe.method == "low-rank":
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))

    def collate(batch):
        rows = [(prompt + answer)[:MAX_LENGTH] for prompt, answer in batch]
        width, pad = max(map(len, rows)), tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        labels = torch.where(mask.bool(), ids, -100)
        for i, (prompt, _) in enumerate(batch):
            labels[i, : len(prompt)] = -100  # only answers are learned
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    steps = math.ceil(len(examples) / BATCH) * recipe.epochs
    cpu = not torch.cuda.is_available()
    trainer = Trainer(
        model=model, train_dataset=examples, data_collator=collate,
        args=TrainingArguments(
            output_dir=str(work), per_device_train_batch_size=BATCH, learning_rate=recipe.learning_rate, num_train_epochs=recipe.epochs, seed=recipe.seed,
            warmup_steps=max(1, steps // 20), lr_scheduler_type="cosine", use_cpu=cpu,
            bf16=models.choose_dtype("auto", models.choose_device()) == torch.bfloat16,
            logging_steps=2, save_strategy="steps", save_steps=max(10, steps // 4), save_total_limit=1, report_to=[], remove_unused_columns=False,
            dataloader_pin_memory=False, disable_tqdm=not sys.stderr.isatty(),
        ),
    )  # fmt: skip
    saved = sorted(work.glob("checkpoint-*/trainer_state.json"))
    print(f"{len(examples)} examples, {steps} steps" + (", going on from the last checkpoint" if saved else ""), flush=True)
    trainer.train(resume_from_checkpoint=bool(saved) or None)
    trained = model.merge_and_unload() if recipe.method == "low-rank" else model
    trained = trained.to(torch.bfloat16).eval()
    partial = folder.parent / f"{folder.name}.done"
    shutil.rmtree(partial, ignore_errors=True)
    trained.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    digest = sha256(partial / "model.safetensors")
    write_json(partial / "recipe.json", {
        **dataclasses.asdict(recipe), "base_revision": source.revision, "sha256": digest, "examples": len(examples),
        "tokens": sum(len(p) + len(a) for p, a in examples) * recipe.epochs, "seconds": round(time.monotonic() - started),
        "loss": [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry],
        "held_out": held_out(models.wrap(trained, tokenizer, name=recipe.name, revision=digest)),
    })  # fmt: skip
    os.replace(partial, folder)
    shutil.rmtree(work, ignore_errors=True)


def held_out(model, n: int = 40) -> dict:
    """Refusal rates on prompts that were in no training: {harmful, harmless, pseudo_harmful} → {value, ci95, n}."""
    from lib import data, measure, stats
    from lib.prompts import chat

    rates = {}
    for name, which in (("harmful", {"label": "harmful"}), ("harmless", {"source": "harmless"}), ("pseudo_harmful", {"source": "pseudo_harmful"})):
        table = data.prompts("validation", **which)[:n]
        rates[name] = stats.rate(measure.behaviour(model, chat(model, table)).outcome == "refusal")
        print(f"held out: refuses {rates[name]['value']:.0%} of {len(table)} {name} prompts", flush=True)
    return rates


if __name__ == "__main__":
    run(RECIPES[sys.argv[1]], Path(sys.argv[2]))
