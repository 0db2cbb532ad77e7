"""Images before a language model: a constructed graft, checked against what can be computed by hand, and the
edits that stand for images of a released model, checked against that model's own passes.
"""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from conftest import randomised, tiny_config, tiny_module
from refusal.base.errors import UserError
from refusal.findings.f08 import places, vision
from refusal.model import loading
from refusal.model.tiny import tiny_tokenizer
from refusal.model.vision import Eyes, Tags, image_tokens, is_seeing, language_model, seen
from refusal.trace import reads
from refusal.trace.decode import Decoding, generate
from refusal.trace.edits import Patch, Row
from refusal.trace.prompts import Prompt
from refusal.trace.roles import PLACES, Setting

SEED = 3
PLACEHOLDER, N_TOKENS = 9, 4


def everything(logits):
    return logits


@pytest.fixture(scope="module")
def eye():
    return vision.encoder(SEED)


@pytest.fixture(scope="module")
def speaker():
    """A tiny model whose tokenizer has every word of a caption, and no other."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *vision.CAPTION, *vision.COLOURS, *vision.SHAPES]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return loading.wrap(tiny_module("llama"), tokenizer, name="speaker", revision="speaker")


def colours_of(pictures):
    """The darkest channel sum's colour of each picture, by pixels alone: the nearest with a name."""
    at = pictures.sum(1).reshape(len(pictures), -1).argsort(1)[:, :20]
    rgb = np.take_along_axis(pictures.reshape(len(pictures), 3, -1), at[:, None], 2).mean(2)
    table = np.array(list(vision.COLOURS.values()))
    return [list(vision.COLOURS)[k] for k in np.linalg.norm(rgb[:, None] - table, axis=2).argmin(1)]


def test_pictures_follow_from_the_seed_and_show_what_they_say():
    pairs = [(c, s) for c in vision.COLOURS for s in vision.SHAPES]
    one, again, other = (vision.pictures(pairs, np.random.default_rng(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.dtype == np.float32 and one.shape == (24, 3, 32, 32) and 0 <= one.min() and one.max() <= 1
    assert colours_of(one) == [c for c, _ in pairs]
    edge = np.concatenate([one[..., 0], one[..., -1], one[..., 0, :], one[..., -1, :]], -1)
    assert (edge.mean(-1) > 0.75).all()  # a shape is whole


def test_shapes_cover_what_geometry_says():
    rng = np.random.default_rng(0)
    share = {"circle": np.pi, "square": 1.7**2, "triangle": 0.5 * 1.8 * 1.8, "cross": 2 * 2 * 0.6 - 0.36}
    for shape, of in share.items():
        area = vision.masks([shape] * 400, rng).sum((1, 2)).mean()
        low, high = vision.RADIUS
        assert area == pytest.approx(of * (high**3 - low**3) / (3 * (high - low)), rel=0.06), shape


def test_held_out_combinations_are_in_no_training(monkeypatch, speaker):
    assert len(vision.TRAINED) == 20 and not set(vision.TRAINED) & set(vision.HELD_OUT)
    assert sorted(s for _, s in vision.HELD_OUT) == sorted(vision.SHAPES)
    assert len({c for c, _ in vision.HELD_OUT}) == 4
    far = np.array([vision.COLOURS[c] for c, _ in vision.HELD_OUT])
    named = np.array(list(vision.COLOURS.values()))
    for lesson in vision.lessons(np.random.default_rng(5), 40, 64):
        assert not set(lesson.pairs) & set(vision.HELD_OUT)
        assert colours_of(lesson.pictures) == [c for c, _ in lesson.pairs]
        assert np.linalg.norm(lesson.rgb[:, None] - far, axis=2).min() >= vision.APART
        assert np.linalg.norm(lesson.rgb[:, None] - named, axis=2).min(1).mean() > 0.3  # most have no name
    fitted = []
    real = vision.caption
    monkeypatch.setattr(vision, "caption", lambda words, pairs: fitted.append(pairs) or real(words, pairs))
    vision.graft(speaker, 4, SEED)
    assert not set(fitted[0]) & set(vision.HELD_OUT) and len(fitted[0]) == vision.PROJECTED


def test_encoder_knows_colours_and_shapes_that_it_never_saw_together(eye):
    held = vision.in_turn(800)
    seen = vision.features(eye, vision.pictures(held, np.random.default_rng(77)))
    for k, (head, names) in enumerate(((eye.colour, list(vision.COLOURS)), (eye.shape, vision.SHAPES))):
        true = torch.tensor([names.index(pair[k]) for pair in held])
        right = (head(torch.from_numpy(seen)).argmax(1) == true).float()
        assert float(right.mean()) >= 0.95
        assert float(right.mean()) == pytest.approx(vision.accuracy(head, seen, true.tolist()))
        assert min(float(right[j::4].mean()) for j in range(4)) >= 0.9
    assert sum(p.numel() for p in eye.body.parameters()) < 120_000


def test_training_follows_from_the_seed_and_leaves_torchs_own_as_it_was():
    before = torch.get_rng_state()
    weights = [[p for p in vision.encoder.__wrapped__(s, 2).body.parameters()] for s in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not all(map(torch.equal, weights[0], weights[2]))


def test_ridge_is_the_closed_form():
    rng = np.random.default_rng(4)
    x, new = rng.normal(2, 1, (30, 5)), rng.normal(2, 1, (7, 5))
    words = torch.from_numpy(rng.normal(1, 1, (30, 4, 3))).float()
    y, alpha = words.flatten(1).double().numpy(), 2.5
    centred = x - x.mean(0)
    w = np.linalg.solve(centred.T @ centred + alpha * np.eye(5), centred.T @ (y - y.mean(0)))
    by_hand = lambda z: ((z - x.mean(0)) @ w + y.mean(0)).reshape(-1, 4, 3)
    np.testing.assert_allclose(vision.ridge(x, words, alpha)(new).numpy(), by_hand(new), rtol=1e-4, atol=1e-5)
    project = vision.projector(x, words, alpha)
    norms = project(x).norm(dim=-1).mean(0)
    torch.testing.assert_close(norms, words.norm(dim=-1).mean(0), rtol=1e-4, atol=1e-5)
    scale = np.linalg.norm(words.numpy(), axis=2).mean(0) / np.linalg.norm(by_hand(x), axis=2).mean(0)
    np.testing.assert_allclose(project(new).numpy(), by_hand(new) * scale[:, None], rtol=1e-4, atol=1e-5)


def test_graft_leaves_the_language_model_alone_and_lands_near_the_words(speaker):
    before = {name: p.clone() for name, p in speaker.module.state_dict().items()}
    made, again = (vision.graft(speaker, 10, SEED) for _ in range(2))
    after = speaker.module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(p, after[name]) for name, p in before.items())
    assert torch.equal(made.tokens, again.tokens) and made.scores == again.scores
    assert made.tokens.shape == (10, 4, speaker.d_model) and made.tokens.dtype == torch.float32
    assert list(zip(made.colour, made.shape, strict=True)) == [vision.HELD_OUT[i % 4] for i in range(10)]
    assert made.scores["colour"] >= 0.95 and made.scores["shape"] >= 0.95
    assert 0.9 <= made.scores["token_cos"] <= 1
    mean = (2 + made.scores["colour_cos"] + made.scores["shape_cos"]) / 4  # "picture of" is always the same
    assert made.scores["token_cos"] == pytest.approx(mean, abs=1e-4)
    ids = speaker.tokenizer.get_vocab()
    table = torch.nn.functional.normalize(speaker.module.get_input_embeddings().weight, dim=-1)
    for tokens, colour, shape in zip(made.tokens, made.colour, made.shape, strict=True):
        assert (tokens @ table.T).argmax(1).tolist() == [ids[w] for w in ("picture", "of", colour, shape)]


def test_words_that_begin_alike_are_told():
    model = loading.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama", revision="llama")
    with pytest.raises(UserError, match="with the same token"):
        vision.graft(model, 4, SEED)


def test_random_tokens_keep_the_norms():
    like = torch.randn(6, 4, 32, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5)[:, None]
    one, again, other = (vision.random_tokens(like, k) for k in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.testing.assert_close(one.norm(dim=-1), like.norm(dim=-1))
    assert abs(float(torch.cosine_similarity(one, like, dim=-1).mean())) < 0.2


@pytest.mark.parametrize(
    "answer, said",
    [
        ("The picture shows a red circle.", (True, True)),
        ("RED! And a square, not a circle", (True, False)),
        ("a blue circle, or red", (False, True)),
        ("a reddish circle", (False, True)),
        ("", (False, False)),
        ("circles that are red", (True, False)),
        ("a circle,red", (True, True)),
        ("I see a red triangle and a circle.", (True, False)),
    ],
)
def test_an_answer_names_what_it_says_first(answer, said):
    assert vision.named(answer, "red", "circle") == said


@pytest.fixture(scope="module")
def vlm():
    """A tiny random LLaVA: every picture is four tokens."""
    sight = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    config = transformers.LlavaConfig(
        vision_config=sight,
        text_config=tiny_config("llama", num_key_value_heads=2),
        image_token_index=PLACEHOLDER,
        image_seq_length=N_TOKENS,
    )
    torch.manual_seed(5)
    return randomised(transformers.LlavaForConditionalGeneration(config).float())


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module")
def asked(vlm, pixels):
    """Rows with the image at the beginning, in the middle and at the end, of different lengths."""
    image, rows = [PLACEHOLDER] * N_TOKENS, []
    texts = [([], [20, 31, 12, 40, 22]), ([11, 25, 33], [14, 28, 35, 41]), ([13, 19], [])]
    for i, ((before, after), tokens) in enumerate(zip(texts, image_tokens(vlm, pixels), strict=True)):
        ids = (*before, *image, *after)
        span = tuple(range(len(before), len(before) + N_TOKENS))
        rows.append(Row(Prompt(str(i), "", "", "", ids, 0, len(ids)), (Patch(tokens, 0, span),)))
    return rows


def own(vlm, pixels, rows):
    """Last logits [row, vocabulary] of the vision-language model itself, in a batch padded on the left."""
    width = max(len(row.prompt.ids) for row in rows)
    pads = [width - len(row.prompt.ids) for row in rows]
    ids = torch.tensor([[0] * pad + list(row.prompt.ids) for pad, row in zip(pads, rows, strict=True)])
    mask = (torch.arange(width) >= torch.tensor(pads)[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "pixel_values": pixels}
    with torch.no_grad():
        return vlm(**given).logits[:, -1]


def test_an_image_is_an_edit(vlm, pixels, asked):
    before = own(vlm, pixels, asked)
    alone = language_model(vlm)
    assert alone.base_model is vlm.model.language_model and alone.lm_head is vlm.lm_head
    model = loading.wrap(alone, tiny_tokenizer(), name="llava", revision="llava")
    read = reads.score_rows(model, asked, everything)
    torch.testing.assert_close(read, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own(vlm, pixels, asked), before, rtol=1e-4, atol=1e-4)
    one_by_one = torch.cat([own(vlm, pixels[i : i + 1], [row]) for i, row in enumerate(asked)])
    torch.testing.assert_close(read, one_by_one, rtol=1e-4, atol=1e-4)
    bare = reads.score_rows(model, [Row(row.prompt) for row in asked], everything)
    theirs = [row.edits[0].values for row in asked]
    others = [Row(row.prompt, (Patch(theirs[i - 1], 0, row.edits[0].span),)) for i, row in enumerate(asked)]
    for wrong in (bare, reads.score_rows(model, others, everything)):
        assert ((wrong - before).abs().amax(1) > 0.05).all()


def test_what_is_said_of_an_image_is_what_the_model_itself_says(vlm, pixels, asked):
    model = loading.wrap(language_model(vlm), tiny_tokenizer(), name="llava", revision="llava")
    said = generate(model, asked, decoding=Decoding(6, keep_special=True))
    for i, row in enumerate(asked):
        ids = torch.tensor([row.prompt.ids])
        new = []
        for _ in range(6):
            with torch.no_grad():
                logits = vlm(input_ids=ids, pixel_values=pixels[i : i + 1]).logits[0, -1]
            new.append(int(logits.argmax()))
            ids = torch.cat([ids, torch.tensor([[new[-1]]])], 1)
        assert said[i] == model.tokenizer.decode(new)


def test_features_in_every_form_are_the_same_tokens(vlm, pixels):
    tokens = image_tokens(vlm, pixels)
    assert tokens.shape == (3, N_TOKENS, 32) and tokens.dtype == torch.float32
    assert not tokens.requires_grad
    forms = [tokens, list(tokens), tuple(tokens), tokens.flatten(0, 1), SimpleNamespace(pooler_output=tokens)]
    for form in [*forms, SimpleNamespace(pooler_output=list(tokens))]:
        other = copy.copy(vlm)
        object.__setattr__(other, "get_image_features", lambda pixel_values, form=form: form)
        torch.testing.assert_close(image_tokens(other, pixels), tokens)
    for form, what in (([tokens[0], tokens[1], tokens[2, :3]], "different"), (tokens[..., :7], "width 32")):
        object.__setattr__(other, "get_image_features", lambda pixel_values, form=form: form)
        with pytest.raises(UserError, match=what):
            image_tokens(other, pixels)


def test_crops_of_a_picture_count_as_that_picture_in_smolvlm():
    text = tiny_config("llama", num_key_value_heads=2)
    sight = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SmolVLMConfig(
        vision_config={**sight, "image_size": 16, "patch_size": 4},
        text_config=text.to_dict(),
        scale_factor=2,
        image_token_id=PLACEHOLDER,
    )
    torch.manual_seed(5)
    vlm = randomised(transformers.SmolVLMForConditionalGeneration(config).float())
    crops = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(8))
    tokens = image_tokens(vlm, crops)
    assert tokens.shape == (2, 3 * 4, 32)
    torch.testing.assert_close(tokens[1:], image_tokens(vlm, crops[1:]), rtol=1e-4, atol=1e-5)
    ids = (11, *[PLACEHOLDER] * 4, 20, *[PLACEHOLDER] * 8, 31)
    span = tuple(k for k, token in enumerate(ids) if token == PLACEHOLDER)
    rows = [Row(Prompt(str(i), "", "", "", ids, 0, len(ids)), (Patch(tokens[i], 0, span),)) for i in range(2)]
    before = own(vlm, crops, rows)
    model = loading.wrap(language_model(vlm), tiny_tokenizer(), name="smolvlm", revision="smolvlm")
    torch.testing.assert_close(reads.score_rows(model, rows, everything), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kind, why",
    [
        ("qwen2_vl", "several axes"),
        ("qwen3_vl", "several layers"),
        ("gemma3", "see those after them"),
    ],
)
def test_models_in_which_an_image_is_more_than_its_tokens_are_told(kind, why):
    config = transformers.AutoConfig.for_model(kind)
    with torch.device("meta"):
        vlm = transformers.AutoModelForImageTextToText.from_config(config)
    for call in (lambda: language_model(vlm), lambda: image_tokens(vlm, torch.zeros(1, 3, 16, 16))):
        with pytest.raises(UserError, match=why):
            call()


def test_a_model_without_images_is_told():
    with pytest.raises(UserError, match="no features of images"):
        language_model(tiny_module("llama"))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A tiny LLaVA in a folder, as the hub has it: weights, tokenizer, and what prepares pictures."""
    folder = tmp_path_factory.mktemp("released") / "tiny-llava"
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text = tiny_config("llama", num_key_value_heads=2)
    text.vocab_size = len(tokenizer)
    sight = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**sight, image_size=16, patch_size=8, projection_dim=16),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=N_TOKENS,
    )
    torch.manual_seed(7)
    randomised(transformers.LlavaForConditionalGeneration(config).float()).save_pretrained(folder)
    sized = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**sized),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    return folder


def test_a_released_model_is_loaded_with_its_eyes(released):
    model = loading.load(str(released), device="cpu", dtype="float32")
    whole = transformers.LlavaForConditionalGeneration.from_pretrained(released).eval()
    processor = transformers.AutoProcessor.from_pretrained(released)
    assert model.eyes and places.blind(model) is None
    image = vision.shown(model, 5, SEED)
    assert image.tokens.shape == (5, N_TOKENS, model.d_model) and image.scores == {}
    assert list(zip(image.colour, image.shape, strict=True)) == vision.in_turn(5)
    assert image.tags == Tags("", "<image>", "")
    noise, asked = vision.random_tokens(image.tokens, 0), ["fold the letter", "paint the table now"]
    drawn = vision.pictures(vision.in_turn(5), np.random.default_rng((SEED, 1)))
    for place in PLACES:
        table = pd.DataFrame({"id": ["0", "1"], "text": asked, "source": "", "label": "harmless"})
        rows = places.rows(model, table, places.Arm("image", place, Setting()), image, noise)
        read = reads.score_rows(model, rows, everything)
        for i, row in enumerate(rows):
            large = (255 * drawn[i].transpose(1, 2, 0)).round().astype(np.uint8).repeat(8, 0).repeat(8, 1)
            given = processor(text=["<image>"], images=[large], return_tensors="pt")
            ids = torch.tensor([row.prompt.ids])
            with torch.no_grad():
                theirs = whole(input_ids=ids, pixel_values=given["pixel_values"]).logits[0, -1]
            torch.testing.assert_close(read[i], theirs, rtol=1e-4, atol=1e-4)
    said, named = places.named(model, image, Setting(), max_new_tokens=3)
    assert len(said) == 5 and named.shape == (5, 2)


def test_eyes_that_cannot_be_opened_are_told(released, tmp_path):
    blind = tmp_path / "blind"
    shutil.copytree(released, blind, ignore=shutil.ignore_patterns("*processor*"))
    with pytest.raises(UserError, match="what prepares pictures for .* cannot be loaded") as error:
        loading.load(str(blind), device="cpu")
    assert "processor" in str(error.value)


def test_an_image_whose_tokens_lie_apart_is_told(released):
    eyes = loading.load(str(released), device="cpu", dtype="float32").eyes
    picture, real = np.zeros((1, 32, 32, 3), np.uint8), eyes.processor

    def apart(**given):
        found = real(**given)
        ids = found["input_ids"]
        found["input_ids"] = torch.cat([ids[:, :2], torch.full((len(ids), 1), 5), ids[:, 2:]], 1)
        return found

    apart.image_processor, apart.tokenizer, apart.image_token = object(), real.tokenizer, "<image>"
    with pytest.raises(UserError, match="places for it"):
        seen(Eyes(eyes.vlm, apart), picture)
    tokens, tags = seen(eyes, picture)
    assert tokens.shape[:2] == (1, N_TOKENS) and tags.holds == "<image>"


def test_a_model_with_text_alone_has_no_eyes(released):
    assert loading.load("tiny", device="cpu").eyes is None
    assert is_seeing(transformers.AutoConfig.from_pretrained(released))
    for kind in ("llama", "gemma3", "qwen2"):
        assert not is_seeing(transformers.AutoConfig.for_model(kind))
