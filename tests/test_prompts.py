"""Positions found from the template's text."""

import copy
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest
from tokenizers.processors import TemplateProcessing
from transformers.utils import chat_template_utils

from conftest import table
from refusal.base.errors import ParameterError, UserError
from refusal.model.registry import DATE
from refusal.model.tiny import tiny_tokenizer
from refusal.trace.prompts import chat, opening_length, plain, template_text, turn_end, without_closing

TEXTS = [
    "What is the capital of France?",
    "Hi",
    "  Two\nlines, with spaces  ",
    "Ein Ä und ein 漢字 and emoji 🙂",
    "<|im_end|> inside",
]


def test_positions_decode_to_what_they_stand_for(real):
    opening, closing = template_text(real)
    for p, text in zip(chat(real, table(TEXTS)), TEXTS, strict=True):
        decode = real.tokenizer.decode
        assert decode(p.ids[: p.start]) == opening
        assert decode(p.ids[p.start : p.stop]) == text.strip()
        assert decode(p.ids[p.stop :]) == closing
        assert p.t_inst == p.stop - 1 and p.t_post == len(p.ids) - 1
        assert decode([p.ids[p.t_post]]) == "\n" and decode([p.ids[p.position(1)]]) == "<|im_end|>"
        assert p.ids == tuple(
            real.tokenizer.apply_chat_template(
                [{"role": "user", "content": text.strip()}], add_generation_prompt=True
            )["input_ids"]
        )


def test_wrapping_puts_the_question_among_the_closing_tokens(real):
    (p,) = chat(real, table(["bake bread"]), "User wants to ", "\nCould it?")
    assert real.tokenizer.decode(p.ids[p.start : p.stop]) == "User wants to bake bread"
    assert real.tokenizer.decode(p.ids[p.stop :]).startswith("\nCould it?<|im_end|>")


def test_a_position_outside_the_prompt_is_an_error(real):
    (p,) = chat(real, table(["bake bread"]))
    assert p.position(-len(p.ids)) == 0 and p.position(len(p.ids) - p.stop) == p.t_post
    for where in (-len(p.ids) - 1, len(p.ids) - p.stop + 1):
        with pytest.raises(ParameterError, match=f"none at offset {where}"):
            p.position(where)


def test_spans_cover_the_prompt(real):
    (p,) = chat(real, table(["bake bread"]))
    assert [*range(p.start), *p.span("instruction"), *p.span("closing")] == list(p.span("prompt"))
    assert list(p.span("t_inst")) == [p.t_inst] and list(p.span("t_post")) == [p.t_post]
    with pytest.raises(ParameterError, match="unknown span 'all'"):
        p.span("all")


def test_without_closing_ends_at_t_inst(real):
    (p,) = without_closing(chat(real, table(["bake bread"])))
    assert p.t_post == p.t_inst and real.tokenizer.decode(p.ids).endswith("bake bread")


def test_the_opening_is_what_all_prompts_share(real):
    prompts = chat(real, table(TEXTS))
    n = opening_length(prompts)
    assert n == prompts[0].start and len({p.ids[:n] for p in prompts}) == 1
    assert opening_length([]) == 0


@pytest.mark.parametrize("template, message", [("no place", "once"), ("{x} and {x}", "once")])
def test_a_bad_template_is_an_error(real, template, message):
    with pytest.raises(ParameterError, match=message):
        chat(replace(real, template=template), table(["Hi"]))


def test_a_tokenizer_without_chat_template_needs_one(llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", None)
    with pytest.raises(ParameterError, match="TEMPLATE="):
        chat(llama, table(["paint the table"]))
    (p,) = chat(replace(llama, template="User : {x} ."), table(["paint the table"]))
    assert llama.tokenizer.decode(p.ids[p.start : p.stop]) == "paint the table"


def made(template: str, post: str = ""):
    """What `chat` needs of a model: a tokenizer with this chat template, which itself puts `post` around a
    text.
    """
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    if post:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=post, special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    return SimpleNamespace(tokenizer=tokenizer, template=None, date=DATE, name="made")


ASKED = "<s><user>{{ messages[0]['content'] }}<end><assistant>"


@pytest.mark.parametrize(
    "template, today, given",
    [
        ("{{ strftime_now('%d %b %Y') }} " + ASKED, "26 Jul 2024", "01 Feb 2031"),
        ("{% set form = '%Y-%m-%d' %}{{ strftime_now(form) }} " + ASKED, "2024-07-26", "2031-02-01"),
        (
            "{% if date_string is not defined %}{% set date_string = '1 May 2020' %}{% endif %}{{ "
            "date_string }} " + ASKED,
            "26 Jul 2024",
            "01 Feb 2031",
        ),
        (
            "{% if not strftime_now is defined %}no{% else %}{{ strftime_now('%B %d, %Y') }}{% endif %} "
            + ASKED,
            "July 26, 2024",
            "February 01, 2031",
        ),
    ],
)
def test_a_template_that_writes_the_date_writes_the_same_on_every_day(monkeypatch, template, today, given):
    model = made(template)
    first = chat(model, table(["paint the table"]))
    monkeypatch.setattr(
        chat_template_utils,
        "datetime",
        type("Later", (datetime,), {"now": classmethod(lambda cls: datetime(2044, 3, 2))}),
    )
    assert (
        chat(model, table(["paint the table"])) == first and template_text(model)[0] == f"{today} <s><user>"
    )
    assert (
        template_text(SimpleNamespace(**vars(model) | {"date": "2031-02-01"}))[0] == f"{given} <s><user>"
        and datetime.fromisoformat(DATE).year == 2024
    )
    assert chat_template_utils.datetime.now().year == 2044  # it is only told so while a prompt is written
    with pytest.raises(ParameterError, match="DATE=tomorrow is not a day"):
        chat(SimpleNamespace(**vars(model) | {"date": "tomorrow"}), table(["paint"]))


@pytest.mark.parametrize(
    "change, text, kept",
    [
        ("| trim", "  paint the table \n", True),
        ("| upper", "paint the table", False),
        ("| capitalize", "Paint the River", False),
        ("| replace('\n', ' ')", "paint\nthe table", False),
        ("| replace('\n', ' ')", "paint the table", True),
        ("| e", "paint & lift", False),
        ("[:20]", "paint the table with the brush now", False),
    ],
)
def test_a_template_that_changes_the_text_is_an_error(change, text, kept):
    model = made("<s><user>{{ messages[0]['content'] CHANGE }}<end><assistant>".replace("CHANGE", change))
    if kept:
        (p,) = chat(model, table([text]))
        assert model.tokenizer.decode(p.ids) == f"<s> <user> {text.strip()} <end> <assistant>"
        assert model.tokenizer.decode(p.ids[p.start : p.stop]) == text.strip()
    else:
        with pytest.raises(UserError, match="changes its text|shows the instruction 0 times"):
            chat(model, table([text]))


def test_a_template_that_refuses_is_an_error():
    with pytest.raises(UserError, match="does not take this conversation: only poems"):
        chat(made("{{ raise_exception('only poems') }}"), table(["paint"]))


def test_the_first_token_is_the_templates_and_not_the_tokenizers_as_well():
    """As with `apply_chat_template`, which adds nothing to what the template writes: once, not at all, or
    twice.
    """
    for opening, n in (("<s>", 1), ("", 0), ("<s><s>", 2)):
        model = made(ASKED.replace("<s>", opening), "<s> $A </s>")
        (p,) = chat(model, table(["paint the table"]))
        assert (
            p.ids.count(2) == n
            and p.ids[-1] == model.tokenizer.convert_tokens_to_ids("<assistant>")
            and p.start == n + 1
        )
        message = [{"role": "user", "content": "paint the table"}]
        assert p.ids == tuple(
            model.tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
        )


@pytest.mark.parametrize("post", ["", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_plain_texts_end_at_their_own_last_token(post):
    (p,) = plain(made(ASKED, post), ["paint the table"])
    tokens = made(ASKED).tokenizer.convert_ids_to_tokens(p.ids)
    assert (
        tokens == ["<s>"] * ("<s>" in post) + ["paint", "the", "table"]
        and p.t_inst == p.t_post == len(p.ids) - 1
    )


def test_a_token_that_the_instruction_shares_with_the_template_is_its_last(real):
    model = replace(real, template="Say:{x}s and\nno more")
    (p,) = chat(model, table(["I have two cat"]))
    assert (
        real.tokenizer.decode([p.ids[p.t_inst]]) == " cats"
        and real.tokenizer.decode(p.ids[p.stop :]) == " and\nno more"
    )
    assert real.tokenizer.decode(p.ids[p.start : p.stop]).endswith("I have two cats")


@pytest.mark.parametrize(
    "closes, found",
    [
        ("{{ m['content'] }}<end>\n", "<end>"),
        ("{{ m['content'] }}\n</s>", "</s>"),
        ("{{ m['content'] }} stone", None),
        ("{{ m['content'] }}", None),
        ("", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_the_token_that_closes_a_turn(closes, found):
    model = made(
        "<s>{% for m in messages %}{% if m.role == 'user' %}<user>{{ m['content'] }}<end>{% else "
        "%}<assistant>" + closes + "{% endif %}{% endfor %}"
    )
    assert turn_end(model.tokenizer) == (found and model.tokenizer.convert_tokens_to_ids(found))
    assert turn_end(made("").tokenizer) is None


def test_texts_alone_make_the_prompts_of_a_table(llama):
    texts = ["paint the table", "lift a stone"]
    mine, theirs = chat(llama, texts), chat(llama, table(texts))
    assert [p.ids for p in mine] == [p.ids for p in theirs] and [p.id for p in mine] == ["0", "1"]


def test_a_system_prompt_has_a_turn_of_its_own(real):
    said = "Answer with care. Be brief"
    own, mine, empty = (chat(real, table(TEXTS), system=s) for s in (None, f" {said}\n", ""))
    for p, q, e, text in zip(own, mine, empty, TEXTS, strict=True):
        decode, messages = real.tokenizer.decode, [{"role": "user", "content": text.strip()}]
        assert decode(q.ids[slice(*q.system)]) == said == decode([q.ids[k] for k in q.span("system")])
        assert decode(q.ids[q.start : q.stop]) == text.strip() and decode(q.ids[q.stop :]) == decode(
            p.ids[p.stop :]
        )
        for prompt, turn in ((q, said), (e, "")):
            theirs = real.tokenizer.apply_chat_template(
                [{"role": "system", "content": turn}, *messages], add_generation_prompt=True
            )
            assert prompt.ids == tuple(theirs["input_ids"])
        assert list(p.span("system")) == list(e.span("system")) == []
    assert opening_length(mine) > max(mine[0].span("system"))


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<user>{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SILENT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("template", [NO_SYSTEM, SILENT, r"User: {x}\nAssistant:"])
def test_without_a_turn_for_it_a_system_prompt_stands_before_the_text(llama, template):
    model = replace(llama, template=template) if "{x}" in template else made(template)
    (p,) = chat(model, ["paint the table"], system="please now")
    words = model.tokenizer.convert_ids_to_tokens(list(p.ids))
    assert [words[k] for k in p.span("system")] == ["please", "now"]
    assert [words[k] for k in p.span("instruction")] == ["paint", "the", "table"]
    (bare,) = chat(model, ["paint the table"], system="")
    assert bare.ids == chat(model, ["paint the table"])[0].ids


def test_a_template_that_changes_a_system_prompt_is_told():
    model = made("<s><user>{{ messages[-1]['content'] | upper }}<end><assistant>")
    with pytest.raises(UserError, match="shows the instruction 0 times|changes its text"):
        chat(model, ["paint the table"], system="be brief")
