"""What the bare text alone tells: readers that see no model, as baselines for those that do."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from refusal.base.errors import UserError
from refusal.measure import stats
from refusal.model.fetch import fetch
from refusal.model.registry import DATASETS

Reader = Callable[[Sequence[str]], np.ndarray]  # scores of texts, above 0 harmful
ASKS = "who what when where why how which can could is are do does should would will".split()


def tfidf_reader(harmful: Sequence[str], harmless: Sequence[str]) -> Reader:
    """The text-only baseline: logistic regression on TF-IDF of words and pairs of words, trained on the
    guard's own prompts.
    """
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, class_weight="balanced", max_iter=2000),
    )
    model.fit([*harmful, *harmless], np.repeat([1, 0], [len(harmful), len(harmless)]))
    return lambda texts: model.decision_function(list(texts))


def sentence_embeddings(texts: Sequence[str], batch: int = 32) -> np.ndarray:
    """Mean-pooled, normalised embeddings of all-MiniLM-L6-v2 [text, 384]. The encoder was trained on 256
    tokens: longer texts are read in pieces of as many, and the mean is over all of them, so that a request at
    the end of a long template is read as well.
    """
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    weights, config, tokenizer = (
        fetch(DATASETS[f"sentence_encoder{part}"]) for part in ("", "_config", "_tokenizer")
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), pad_token="[PAD]")
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(config, trust_remote_code=False))
    tensors = safetensors.torch.load_file(weights)
    missing, _ = encoder.load_state_dict(tensors, strict=False)
    if missing := [name for name in missing if "position_ids" not in name]:
        raise UserError(f"the sentence encoder lacks {missing[0]}", "its file or transformers has changed")
    encoder.eval()
    out = []
    for start in range(0, len(texts), batch):
        some = list(texts[start : start + batch])
        encoded = tokenizer(
            some,
            padding=True,
            truncation=True,
            max_length=256,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            hidden = encoder(
                input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]
            ).last_hidden_state
        mask = encoded["attention_mask"][..., None].float()
        total = torch.zeros(len(some), hidden.shape[-1]).index_add_(
            0, encoded["overflow_to_sample_mapping"], (hidden * mask).sum(1)
        )
        out.append(torch.nn.functional.normalize(total, dim=-1))  # the mean's direction is that of the sum
    return torch.cat(out).numpy()


def similarity(queries: Sequence[str], answers: Sequence[str]) -> Float[np.ndarray, "answer"]:
    """The cosine of the sentence embeddings of each answer and its query; each distinct text is embedded
    once, and an empty one has 0. Raises ValueError where the two differ in number.
    """
    pairs = list(zip(queries, answers, strict=True))
    texts = sorted({t for pair in pairs if all(x.strip() for x in pair) for t in pair})
    vectors = dict(zip(texts, sentence_embeddings(texts), strict=True)) if texts else {}
    return np.array([float(vectors[q] @ vectors[a]) if q.strip() and a.strip() else 0.0 for q, a in pairs])


def youden(positive: np.ndarray, negative: np.ndarray) -> float:
    """The value, the lowest of equals, from which on positives exceed negatives most. Raises ValueError
    where there are none of either.
    """
    if not len(positive) or not len(negative):
        raise ValueError("a cut needs values on both sides")
    levels = np.unique(np.concatenate([positive, negative]))
    gain = [(positive >= x).mean() - (negative >= x).mean() for x in levels]
    return float(levels[int(np.argmax(gain))])


def embedding_reader(harmful: Sequence[str], harmless: Sequence[str]) -> Reader:
    """As `tfidf_reader`, on sentence embeddings."""
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=2000)
    model.fit(sentence_embeddings([*harmful, *harmless]), np.repeat([1, 0], [len(harmful), len(harmless)]))
    return lambda texts: model.decision_function(sentence_embeddings(texts))


def form(texts: Sequence[str]) -> Float[np.ndarray, "text 5"]:
    """What texts look like: words, characters, whether they begin with a question word, commas, and whether
    the first letter is a capital.
    """
    rows = []
    for text in texts:
        words = re.findall(r"\w+", text)
        asks = bool(words) and words[0].lower() in ASKS
        rows.append([len(words), len(text), asks, text.count(","), text[:1].isupper()])
    return np.array(rows, float).reshape(-1, 5)


def form_reader(harmful: Sequence[str], harmless: Sequence[str]) -> Reader:
    """As `tfidf_reader`, on the `form` of texts alone."""
    model = make_pipeline(
        FunctionTransformer(form),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    )
    model.fit([*harmful, *harmless], np.repeat([1, 0], [len(harmful), len(harmless)]))
    return lambda texts: model.decision_function(list(texts))


def best_reader(readers: dict[str, Reader], harmful: Sequence[str], harmless: Sequence[str]) -> str:
    """The reader that ranks these texts best; give it texts that no claim is tested on."""
    return max(readers, key=lambda name: stats.area(readers[name](harmful), readers[name](harmless)))
