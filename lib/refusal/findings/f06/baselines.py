"""What does without a token: the first word of a twin that was trained on the same answers, a probe on the
states of the model before that, readers of the bare text. Each is a score, and "I'm sorry, but" in the
twin's mouth where it is high.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from refusal.findings.f06 import asked, dial
from refusal.findings.f06.asked import RESPOND, Requests, Said
from refusal.findings.f06.dial import Arm
from refusal.findings.f06.examples import SIZES, TOKENS
from refusal.measure import stats
from refusal.measure.probes import fit_prober
from refusal.measure.readouts import keyed, refusal_score, refusal_tokens
from refusal.measure.text_baselines import Reader, best_reader, embedding_reader, form_reader, tfidf_reader
from refusal.model.loading import Model, load
from refusal.trace.decode import CONTROL, generate
from refusal.trace.reads import collect, score
from refusal.train.fit import answers_loss
from refusal.train.tokens import ids_of

SORRY = "I'm sorry, but"
PUBLISHED = (1001, 379)  # requests to refuse and contrast ones of CoCoNot's test set
ANSWER = 16  # tokens of the base model's own answers, whose likelihood is the price


@dataclass(frozen=True)
class Baselines:
    """The arms without a token on the requests that test; the readers of text, the best of them by validation
    requests, and their texts; the twin and the base model.
    """

    arms: Mapping[str, Arm]
    readers: Mapping[str, Reader]
    best: str
    texts: np.ndarray
    twin: Model
    base: Model

    def text_scores(self, due: np.ndarray, free: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Scores of each reader of text, of due and of free requests."""
        scores = {name: reader(list(self.texts)) for name, reader in self.readers.items()}
        return {name: (x[due], x[free]) for name, x in scores.items()}


def states(model: Model, requests: Requests) -> Float[torch.Tensor, "prompt layer d"]:
    """What a probe reads, at t_post, of every layer."""
    return collect(model, requests.prompts, at=["t_post"])["resid"][:, :, 0]


def probe(model: Model, taught: Requests, checked: Requests) -> Callable[[Requests], np.ndarray]:
    """A logistic regression on the states of one layer, of due against all other requests; the layer is the
    one that ranks the requests `checked` best, and not the first, which knows only the token.
    """
    fitted = fit_prober(states(model, taught), taught.where(kind="refuse"))
    scores, due = fitted.of(states(model, checked)).numpy(), checked.where(kind="refuse")
    areas = [stats.area(x[due], x[~due]) for x in scores.T]
    layer = 1 + int(np.argmax(areas[1:]))
    return lambda requests: fitted.of(states(model, requests)).numpy()[:, layer]


def text_readers(taught: Requests, checked: Requests, embeddings: bool) -> tuple[dict[str, Reader], str]:
    """Readers of the bare text, of due against all other requests, and the best of those of what it says by
    the requests `checked`.
    """
    parts = lambda r: [
        [p.text for p, d in zip(r.prompts, r.where(kind="refuse"), strict=True) if d == on]
        for on in (True, False)
    ]
    known = parts(taught)
    readers = {"TF-IDF": tfidf_reader(*known)}
    if embeddings:  # the encoder is a download of its own
        readers["sentence embeddings"] = embedding_reader(*known)
    best = best_reader(readers, *parts(checked))
    return readers | {"form": form_reader(*known)}, best


def gather(
    base: str, twin: str, requests: Requests, seed: int, tier: str, max_new_tokens: int, same: dict
) -> Baselines:
    """Teach every baseline on the requests that taught the tokens, choose on validation requests, and ask of
    `requests`.
    """
    before, other = load(base, **same), load(twin, **same)
    n_taught = SIZES if tier != "smoke" else 8
    taught = asked.requests(before, "post-training", n_taught, None, seed, tier)
    checked = asked.requests(before, "validation", 15, 24, seed, tier)
    in_base, in_twin = (asked.in_template(m, requests) for m in (before, other))
    readers, best = text_readers(taught, checked, tier != "smoke")
    texts = np.array([p.text for p in requests.prompts], object)
    words = first_word(other, asked.in_template(other, checked), max_new_tokens)
    sorry = other.tokenizer(SORRY, add_special_tokens=False)["input_ids"]
    on, off = map(asked.noncompliant, asked.begun_with(other, in_twin.prompts, [sorry, []], max_new_tokens))
    scored = {
        "first word": words(in_twin),
        "probe": probe(before, taught, checked)(in_base),
        f"{best}": readers[best](list(texts)),
    }
    arms = {name: Arm(np.asarray(x, float), on, off) for name, x in scored.items()}
    return Baselines(arms, readers, best, texts, other, before)


def first_word(twin: Model, checked: Requests, max_new_tokens: int) -> Callable[[Requests], np.ndarray]:
    """How likely the twin's answer begins with a word of its own refusals; which words these are is seen on
    the requests `checked`. Raises ValueError where it hardly refuses.
    """
    texts = generate(twin, checked.prompts, decoding=max_new_tokens, label="the twin's answers")[0]
    kinds = np.where(asked.noncompliant([asked.judge_noncompliance(t) for t in texts]), "refusal", "answer")
    tokens = refusal_tokens(twin, texts, list(kinds))
    if not tokens:
        raise ValueError("the twin refuses too seldom to say how its refusals begin")
    return lambda requests: score(twin, requests.prompts, refusal_score(tokens))[0].numpy()


def losses(
    model: Model, helper: Baselines, requests: Requests, ordinary: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of the base model's own answers to ordinary requests, in nats a token [request]: after the
    answering token, and in the twin.
    """
    asked_for = asked.chosen(requests, ordinary)
    own = generate(helper.base, asked.in_template(helper.base, asked_for).prompts, decoding=ANSWER)[0]
    answers = [
        helper.base.tokenizer(t.partition(CONTROL)[0], add_special_tokens=False)["input_ids"] for t in own
    ]
    respond = ids_of(model.tokenizer, TOKENS)[RESPOND]
    found = []
    for one, before in ((model, [respond]), (helper.twin, [])):
        prompts = asked.in_template(one, asked_for).prompts
        rows = [([*p.ids, *before], a) for p, a in zip(prompts, answers, strict=True)]
        with torch.no_grad():
            found.append(
                np.array([float(answers_loss(one.module, [row])) / max(1, len(row[1])) for row in rows])
            )
    return found[0], found[1]


def refusing(emitted: np.ndarray) -> np.ndarray:
    """Whether each answer begins with a refusing token."""
    return (emitted >= 0) & (emitted < RESPOND)


def difference(model: Model, requests: Requests, due: np.ndarray, free: np.ndarray) -> torch.Tensor:
    """The mean state of due minus that of contrast requests at t_post [layer, d_model]."""
    x = states(model, requests)
    return x[torch.from_numpy(due)].mean(0) - x[torch.from_numpy(free)].mean(0)


def released_numbers(model: Model, requests: Requests, said: Said) -> dict[str, float]:
    """What the released code changes: the mean probability of the refusing tokens at temperature 1, and at
    2, where its loop over temperatures leaves it (generate_for_eval_threshold_cat_tokens.py 85-96); how
    often a judge that is shown the token (118) takes an answer for a refusal; F1 of refusing everything on
    the published test set.
    """
    ids = ids_of(model.tokenizer, TOKENS)

    def at(temperature: float) -> float:
        @keyed(f"refusing tokens {ids} at {temperature:g}")
        def readout(logits: torch.Tensor) -> torch.Tensor:
            return (logits / temperature).softmax(-1)[:, ids[:-1]].sum(-1)

        return float(score(model, requests.prompts, readout)[0].mean())

    leak = [asked.judge_noncompliance(TOKENS[k] + " Sure, here it is.") for k in range(RESPOND)]
    return {
        "p_mean/t1": at(1.0),
        "p_mean/t2": at(2.0),
        "judge_leak": float(np.mean(asked.noncompliant(leak))),
        "always_refuse_f1": dial.always_refuse(*PUBLISHED),
    }
