"""First tokens under edits of the last token, from one reading of what stands before it: against plain
hooks, whole passes and other batches, on every architecture.
"""

from dataclasses import replace

import pytest
import torch

from conftest import Plain, plain_edit, table
from refusal.trace import reads
from refusal.trace.edits import Ablate, Add, Patch, Row, ScaleHead
from refusal.trace.last import before_last, score_last
from refusal.trace.prompts import chat, with_first_tokens

G = torch.Generator().manual_seed(5)
V, W = torch.randn(32, generator=G), 2 * torch.randn(32, generator=G)
ARMS = (
    (),
    (Add(V, 1, "last", 1.5), Add(W, 2, "last")),
    (Ablate(V, (1, 2), "t_post"),),
    (ScaleHead(1, 2, 0.0, "last"), Add(V, 2, (-1,))),
    (Patch(W, 3, "t_post"),),
)


def everything(logits):
    return logits


everything.key = "all logits"


def rows_of(prompts) -> list[Row]:
    return [Row(p, arm) for arm in ARMS for p in prompts]


def test_one_token_a_row_is_the_whole_pass_and_plain_hooks(tiny, five):
    rows = rows_of(five)
    found = score_last(tiny, rows, everything, before_last(tiny, five))
    torch.testing.assert_close(found, reads.score_rows(tiny, rows, everything), rtol=1e-3, atol=1e-3)
    for row, logits in zip(rows, found, strict=True):
        edit = plain_edit(tiny, row.prompt, row.edits, len(row.prompt.ids))
        theirs, _ = Plain(tiny.module, tiny.name).run(row.prompt.ids, edit)
        torch.testing.assert_close(logits, theirs[-1], rtol=1e-3, atol=1e-3)


def test_batches_and_order_change_nothing(tiny, five):
    rows, prefix = rows_of(five), before_last(tiny, five)
    found = score_last(tiny, rows, everything, prefix)
    small = replace(tiny, batch_tokens=8)
    torch.testing.assert_close(score_last(small, rows, everything, prefix), found, rtol=1e-3, atol=1e-3)
    backwards = score_last(tiny, rows[::-1], everything, prefix).flip(0)
    torch.testing.assert_close(backwards, found, rtol=1e-3, atol=1e-3)


def test_a_remote_run_reads_whole_prompts(llama):
    prompts = chat(llama, table())
    away = replace(llama, remote="local")
    assert before_last(away, prompts) is None
    here = score_last(llama, rows_of(prompts), everything, before_last(llama, prompts))
    there = score_last(away, rows_of(prompts), everything, None)
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


def test_what_was_scored_is_found_again_and_nothing_is_read(llama, monkeypatch):
    prompts = chat(llama, table())
    rows = rows_of(prompts)
    found = score_last(llama, rows, everything, before_last(llama, prompts))
    prefix = before_last(llama, prompts)
    monkeypatch.setattr(prefix, "_read", lambda: pytest.fail("the prompts were read again"))
    assert torch.equal(score_last(llama, rows, everything, prefix), found)


@pytest.mark.parametrize("span", ["prompt", "t_inst", "every_token", (-2,)])
def test_an_edit_of_an_earlier_token_is_an_error(llama, span):
    prompts = chat(llama, table())
    with pytest.raises(ValueError, match="earlier token"):
        score_last(llama, [Row(prompts[0], (Add(V, 1, span),))], everything, before_last(llama, prompts))


def test_given_first_tokens_are_before_or_after_as_they_stand(llama):
    prompts = [with_first_tokens(p, [7, 9]) for p in chat(llama, table())]
    at_the_end = [Row(p, (Add(V, 1, (-1,)),)) for p in prompts]
    found = score_last(llama, at_the_end, everything, before_last(llama, prompts))
    torch.testing.assert_close(found, reads.score_rows(llama, at_the_end, everything), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="earlier token"):  # "last" begins at t_post, before what is given
        score_last(llama, [Row(prompts[0], (Add(V, 1, "last"),))], everything, before_last(llama, prompts))
