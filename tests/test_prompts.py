"""Positions found from the template's text."""

from dataclasses import replace

import pytest
from conftest import table

from lib.errors import ParameterError
from lib.prompts import chat, opening_length, template_text, without_closing

TEXTS = ["What is the capital of France?", "Hi", "  Two\nlines, with spaces  ", "Ein Ä und ein 漢字 and emoji 🙂", "<|im_end|> inside"]


def test_positions_decode_to_what_they_stand_for(real):
    opening, closing = template_text(real)
    for p, text in zip(chat(real, table(TEXTS)), TEXTS, strict=True):
        decode = real.tokenizer.decode
        assert decode(p.ids[: p.start]) == opening
        assert decode(p.ids[p.start : p.stop]) == text.strip()
        assert decode(p.ids[p.stop :]) == closing
        assert p.t_inst == p.stop - 1 and p.t_post == len(p.ids) - 1
        assert decode([p.ids[p.t_post]]) == "\n" and decode([p.ids[p.position(1)]]) == "<|im_end|>"
        assert p.ids == tuple(real.tokenizer.apply_chat_template([{"role": "user", "content": text.strip()}], add_generation_prompt=True)["input_ids"])


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
