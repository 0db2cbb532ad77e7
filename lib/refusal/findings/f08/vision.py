"""Pictures for the study of where an image stands in a prompt: through a constructed vision graft onto a
language model that knows text alone, or through a vision-language model's own eyes.

Pictures of one coloured shape, a small convolutional encoder trained on them, and a ridge regression from its
features to the input embeddings of the words of a caption: " picture of <colour> <shape>". An image is then
four tokens that no word is, near four that are. The language model is not trained. Four of the 24
combinations of colour and shape are held out of all training, and only these are shown to it.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from sklearn.linear_model import Ridge
from torch import Tensor

from refusal.base.errors import UserError
from refusal.model.layout import embedding
from refusal.model.loading import Model
from refusal.model.vision import Tags, seen

SIZE = 32  # pixels
ENLARGED = 8  # times, for eyes that are made for photographs
QWEN = Tags("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.60, 0.20),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.55, 0.10, 0.65),
    "black": (0.05, 0.05, 0.05),
}
INSIDE: dict[str, Callable] = {  # pixels by which a point is within a shape of radius r, x right and y down
    "circle": lambda x, y, r: r - np.hypot(x, y),
    "square": lambda x, y, r: 0.85 * r - np.maximum(abs(x), abs(y)),
    "triangle": lambda x, y, r: np.minimum(0.8 * r - y, (0.5 * (y + r) - abs(x)) / np.hypot(1, 0.5)),
    "cross": lambda x, y, r: np.minimum(r - np.maximum(abs(x), abs(y)), 0.3 * r - np.minimum(abs(x), abs(y))),
}
SHAPES = tuple(INSIDE)
HELD_OUT = (("red", "circle"), ("blue", "square"), ("green", "triangle"), ("yellow", "cross"))
TRAINED = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)
CAPTION = ("picture", "of")  # and then the colour and the shape
RADIUS, NOISE = (7.0, 12.0), 0.03
APART = 0.35  # least distance of a colour drawn at random from white and from those held out with a shape

FEATURES, STEPS, BATCH, RATE = 64, 150, 64, 5e-3
SMOOTHED = 0.1  # share of each label: features of one word lie close together, as the projector needs them
PROJECTED, ALPHA = 1600, 100.0  # pictures that the projector is fitted on, and its penalty
SCORED = 400  # held-out pictures that scores are of


@dataclass(frozen=True, eq=False)
class Encoder:
    """`body` maps pictures [picture, 3, 32, 32] to features [picture, f]; two heads map these to logits of
    the colour [picture, 6] and of the shape [picture, 4].
    """

    body: torch.nn.Module
    colour: torch.nn.Linear
    shape: torch.nn.Linear


@dataclass(frozen=True, eq=False)
class Lesson:
    """One batch of training: pictures in the named colours of `pairs`, and pictures of the same shapes at
    other places in the colours `rgb`, most of which have no name.
    """

    pairs: list[tuple[str, str]]
    rgb: Float[np.ndarray, "picture 3"]
    pictures: Float32[np.ndarray, "picture 3 32 32"]
    recoloured: Float32[np.ndarray, "picture 3 32 32"]


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures as tokens at the input of a language model's first block, in its units, what each shows, and
    what stands around an image in a prompt.

    `scores` of held-out pictures, which a model's own eyes have not: the graft's accuracy of ``colour`` and
    ``shape``; ``token_cos``, the mean cosine between tokens and the embeddings of the words they stand for,
    and the same of the two tokens that differ from picture to picture, ``colour_cos`` and ``shape_cos``.
    """

    tokens: Float[Tensor, "picture token d"]
    colour: list[str]
    shape: list[str]
    tags: Tags
    scores: dict[str, float]


def shown(model: Model, n: int, seed: int) -> Shown:
    """`n` pictures of the held-out combinations as tokens of `model`: as it reads them itself where it is
    part of a vision-language model, else as `graft` makes them.
    """
    if model.eyes is None:
        return graft(model, n, seed)
    wanted = in_turn(n)
    drawn = pictures(wanted, np.random.default_rng((seed, 1))).transpose(0, 2, 3, 1)
    large = (255 * drawn).round().astype(np.uint8).repeat(ENLARGED, 1).repeat(ENLARGED, 2)
    tokens, around = seen(model.eyes, large)
    return Shown(tokens, [colour for colour, _ in wanted], [shape for _, shape in wanted], around, {})


def tags(tokenizer) -> Tags:
    """What stands around an image that the graft makes: as Qwen's vocabularies have it, else a token that
    says nothing, without tags.
    """
    if {QWEN.opened, QWEN.holds, QWEN.closed} <= set(tokenizer.get_vocab()):
        return QWEN
    return Tags("", tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token, "")


def graft(model: Model, n: int, seed: int) -> Shown:
    """`n` pictures of the held-out combinations as tokens of `model`, in turn, so that each is shown as often
    as the others. The encoder is trained at the first call with a seed and kept. Raises UserError for a
    tokenizer in which two colours or two shapes begin with the same token, and for a remote model.
    """
    if model.remote is True:
        raise UserError(f"the embeddings of {model.name} are remote", "run it here (REMOTE=0)")
    words = embedded(model)
    eye = encoder(seed)
    # streams apart from each other and from that of the encoder's training
    drawn, scored, fitted = (np.random.default_rng((seed, k)) for k in (1, 2, 3))
    pairs = [TRAINED[i % len(TRAINED)] for i in range(PROJECTED)]
    project = projector(features(eye, pictures(pairs, fitted)), caption(words, pairs))
    held = in_turn(SCORED)
    found = features(eye, pictures(held, scored))
    cosine = torch.cosine_similarity(project(found), caption(words, held), dim=-1)
    right = {"colour": (eye.colour, list(COLOURS), 0), "shape": (eye.shape, list(SHAPES), 1)}
    scores = {
        what: accuracy(head, found, [names.index(p[k]) for p in held])
        for what, (head, names, k) in right.items()
    }
    scores |= {"token_cos": float(cosine.mean())}
    scores |= {"colour_cos": float(cosine[:, -2].mean()), "shape_cos": float(cosine[:, -1].mean())}
    wanted = in_turn(n)
    tokens = project(features(eye, pictures(wanted, drawn)))
    around = tags(model.tokenizer)
    return Shown(tokens, [colour for colour, _ in wanted], [shape for _, shape in wanted], around, scores)


def in_turn(n: int) -> list[tuple[str, str]]:
    """`n` held-out combinations (colour, shape), each as often as the others."""
    return [HELD_OUT[i % len(HELD_OUT)] for i in range(n)]


def masks(shapes: Sequence[str], rng: np.random.Generator) -> Float[np.ndarray, "picture 32 32"]:
    """How much of each pixel a shape of random size covers, at a random place where all of it is seen."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    drawn = np.empty((len(shapes), SIZE, SIZE))
    for i, shape in enumerate(shapes):
        r = rng.uniform(*RADIUS)
        across, down = rng.uniform(r, SIZE - 1 - r, 2)
        drawn[i] = np.clip(INSIDE[shape](x - across, y - down, r) + 0.5, 0, 1)
    return drawn


def painted(
    drawn: Float[np.ndarray, "picture 32 32"], rgb: Float[np.ndarray, "picture 3"], rng: np.random.Generator
) -> Float32[np.ndarray, "picture 3 32 32"]:
    """Shapes in colours (0..1) on a white page, with a little noise, in 0..1."""
    whole = 1 + drawn[:, None] * (rgb[:, :, None, None] - 1)
    return np.clip(whole + rng.normal(0, NOISE, whole.shape), 0, 1).astype(np.float32)


def pictures(
    pairs: Sequence[tuple[str, str]], rng: np.random.Generator
) -> Float32[np.ndarray, "picture 3 32 32"]:
    """A picture of each (colour, shape), in 0..1."""
    rgb = np.array([COLOURS[colour] for colour, _ in pairs]).reshape(-1, 3)
    return painted(masks([shape for _, shape in pairs], rng), rgb, rng)


def any_colours(n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 3"]:
    """Colours at random, with a name or without; far from white, and from every one that is held out with a
    shape: were it far from that of its own shape alone, the colour would tell which shape it is not.
    """
    far = np.array([(1, 1, 1), *(COLOURS[colour] for colour, _ in HELD_OUT)])
    found = np.empty((0, 3))
    while len(found) < n:
        rgb = rng.uniform(0, 1, (n, 3))
        apart = np.linalg.norm(rgb[:, None] - far, axis=2).min(1) >= APART
        found = np.concatenate([found, rgb[apart]])
    return found[:n]


def lessons(rng: np.random.Generator, steps: int, batch: int) -> Iterator[Lesson]:
    """What the encoder is trained on, step by step: none of the held-out combinations."""
    for _ in range(steps):
        pairs = [TRAINED[i] for i in rng.integers(len(TRAINED), size=batch)]
        shapes = [shape for _, shape in pairs]
        rgb = any_colours(batch, rng)
        yield Lesson(pairs, rgb, pictures(pairs, rng), painted(masks(shapes, rng), rgb, rng))


@functools.lru_cache(maxsize=4)
def encoder(seed: int, steps: int = STEPS) -> Encoder:
    """An encoder trained to tell colours of pictures in named colours, and shapes of pictures in any: else it
    would learn which colour goes with which shape.
    """
    rng = np.random.default_rng((seed, 0))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        eye = _untrained()
        parts = torch.nn.ModuleList([eye.body, eye.colour, eye.shape])
        optimizer = torch.optim.AdamW(parts.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
        loss_of = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHED)
        for lesson in lessons(rng, steps, BATCH):
            both = torch.from_numpy(np.concatenate([lesson.pictures, lesson.recoloured]))
            named_ones, any_ones = eye.body(both).chunk(2)
            colours = torch.tensor([list(COLOURS).index(colour) for colour, _ in lesson.pairs])
            shapes = torch.tensor([SHAPES.index(shape) for _, shape in lesson.pairs])
            loss = loss_of(eye.colour(named_ones), colours) + loss_of(eye.shape(any_ones), shapes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    parts.requires_grad_(False).eval()
    return eye


def _untrained() -> Encoder:
    sizes, parts = (3, 32, 64, 64, 64), []
    for k, (into, out) in enumerate(itertools.pairwise(sizes)):
        parts += [torch.nn.Conv2d(into, out, 3, stride=1 if k == 2 else 2, padding=1)]
        parts += [torch.nn.BatchNorm2d(out), torch.nn.ReLU()]
    parts += [torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(sizes[-1], FEATURES)]
    heads = (torch.nn.Linear(FEATURES, len(names)) for names in (COLOURS, SHAPES))
    return Encoder(torch.nn.Sequential(*parts), *heads)


def features(eye: Encoder, shown: Float32[np.ndarray, "picture 3 32 32"]) -> Float32[np.ndarray, "picture f"]:
    """What the encoder makes of pictures."""
    with torch.no_grad():
        return eye.body(torch.from_numpy(shown)).numpy()


def accuracy(head: torch.nn.Linear, seen: Float32[np.ndarray, "picture f"], true: Sequence[int]) -> float:
    """The share of pictures in which `head` is right."""
    with torch.no_grad():
        said = head(torch.from_numpy(seen)).argmax(1)
    return float((said == torch.tensor(true)).float().mean())


def first_tokens(model: Model) -> dict[str, int]:
    """The first token of each word of a caption, written after a space. Raises UserError where two colours or
    two shapes have the same.
    """
    of = lambda word: model.tokenizer(" " + word, add_special_tokens=False)["input_ids"][0]
    ids = {word: of(word) for word in (*CAPTION, *COLOURS, *SHAPES)}
    for words in (COLOURS, SHAPES):
        for word in words:
            if same := [other for other in words if other != word and ids[other] == ids[word]]:
                raise UserError(
                    f"the tokenizer of {model.name} begins {word!r} and {same[0]!r} with the same token",
                    "a model with a token of its own for each colour and each shape is needed",
                )
    return ids


def embedded(model: Model) -> dict[str, Float[Tensor, "d"]]:
    """The input embedding of each word's first token, float32, on the CPU. Raises UserError as
    `first_tokens`.
    """
    ids = first_tokens(model)
    table = embedding(model)
    with torch.no_grad():
        rows = table(torch.tensor(list(ids.values()), device=model.device)).float().cpu()
    return dict(zip(ids, rows, strict=True))


def caption(
    words: dict[str, Float[Tensor, "d"]], pairs: Sequence[tuple[str, str]]
) -> Float[Tensor, "picture 4 d"]:
    """The embeddings of the words of each picture's caption."""
    return torch.stack([torch.stack([words[word] for word in (*CAPTION, *pair)]) for pair in pairs])


def ridge(
    seen: Float[np.ndarray, "picture f"], words: Float[Tensor, "picture 4 d"], alpha: float
) -> Callable[[np.ndarray], Tensor]:
    """The ridge regression, with an intercept, from features to the embeddings of captions: a function of
    features [picture, f] that gives [picture, 4, d].
    """
    fitted = Ridge(alpha=alpha).fit(seen.astype(float), words.flatten(1).double().numpy())
    return lambda x: torch.from_numpy(fitted.predict(x.astype(float))).float().unflatten(1, words.shape[1:])


def projector(
    seen: Float[np.ndarray, "picture f"], words: Float[Tensor, "picture 4 d"], alpha: float = ALPHA
) -> Callable[[np.ndarray], Tensor]:
    """As `ridge`, each of the four tokens scaled so that over the pictures it is fitted on its norm is, on
    average, that of the words it stands for.
    """
    project = ridge(seen, words, alpha)
    scale = words.norm(dim=-1).mean(0) / project(seen).norm(dim=-1).mean(0)
    return lambda x: project(x) * scale[:, None]


def random_tokens(like: Float[Tensor, "picture 4 d"], seed: int) -> Float[Tensor, "picture 4 d"]:
    """Random vectors, each with the norm of its counterpart: pictures of nothing."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    return drawn * (like.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))


def named(answer: str, colour: str, shape: str) -> tuple[bool, bool]:
    """Whether the first colour that an answer names, as a word, is `colour`, and the first shape `shape`."""
    words = re.findall(r"\w+", answer.lower())
    first = lambda names: next((word for word in words if word in names), None)
    return first(COLOURS) == colour, first(SHAPES) == shape
