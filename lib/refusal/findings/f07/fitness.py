"""The paper's fitness of a text, from sampled answers to it, and what the released code makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from refusal.measure.judge import judge
from refusal.model.loading import Model
from refusal.trace import reads
from refusal.trace.decode import Decoding, generate
from refusal.trace.edits import Row
from refusal.trace.prompts import chat, with_first_tokens

LAMBDA = 0.03  # the paper's; the released code has 0.1
HARD = 0.1  # what the released code takes for the probability that an answer is no refusal
TEMPERATURE = 1.0


@dataclass(frozen=True)
class Answers:
    """Sampled answers to texts: whether each is judged a refusal [text, sample], the other judge's
    probability of it, the answer's mean log-probability by token, and how many of a text's are distinct.
    """

    refused: np.ndarray
    probability: np.ndarray
    log_p: np.ndarray
    distinct: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """The share of samples that are refusals [text]."""
        return self.refused.mean(1)


def sample(
    model: Model,
    texts: Sequence[str],
    k: int,
    max_new_tokens: int,
    seed: int,
    other: Callable,
    log_p: bool = False,
) -> Answers:
    """`k` answers to each text; `other` gives scores of answers, above 0 for refusals. Log-probabilities are
    read where they are asked for, else they are 0.
    """
    prompts = chat(model, texts)
    decoding = Decoding(max_new_tokens, samples=k, temperature=TEMPERATURE, seed=seed)
    said = generate(model, [Row(p) for p in prompts], decoding=decoding, label=f"{k} answers each")
    said = [[one] if isinstance(one, str) else one for one in said]
    flat = [text for some in said for text in some]
    shape = (len(texts), k)
    likely = np.zeros(len(flat))
    if log_p:
        ids = [model.tokenizer(t, add_special_tokens=False)["input_ids"][:max_new_tokens] for t in flat]
        end = model.tokenizer.eos_token_id
        rows = [Row(with_first_tokens(prompts[i // k], some or [end])) for i, some in enumerate(ids)]
        likely = -reads.read_given(model, rows).numpy()
    return Answers(
        np.array([judge(t) == "refusal" for t in flat]).reshape(shape),
        (1 / (1 + np.exp(-np.asarray(other(flat))))).reshape(shape),
        likely.reshape(shape),
        np.array([len(set(some)) for some in said]),
    )


def published(answers: Answers, weight: float = LAMBDA) -> np.ndarray:
    """F of each text as the paper has it: the mean of log p(refusal | answer) plus λ times the answer's mean
    log-probability.
    """
    return (np.log(np.clip(answers.probability, 1e-6, 1)) + weight * answers.log_p).mean(1)


def released(answers: Answers, weight: float = 0.1) -> np.ndarray:
    """F as released: the logarithm of the mean of hard labels, 1 and 0.1, and the perplexity term with
    another λ, times ln 2.
    """
    hard = np.where(answers.refused, 1.0, HARD).mean(1)
    return np.log(hard) + weight * np.log(2) * answers.log_p.mean(1)
