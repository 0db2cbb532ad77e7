"""What prompts begin with in common is read once, and their first tokens are those of whole passes."""

from dataclasses import replace

import pytest
import torch

from conftest import Plain, table
from refusal.trace import reads, stems
from refusal.trace.prompts import chat

BEGIN = "please carry the stone with the rope and"
TEXTS = [
    *(f"{BEGIN} {end}" for end in ("paint the table", "fold the letter now", "lift a bucket")),
    *(f"{BEGIN} move the wheel with the spoon in the garden {end}" for end in ("now", "please", "and pack")),
    "paint the lamp",
    "kill the bread with the hammer now",
]


def everything(logits):
    return logits


everything.key = "all logits of stems"


def test_first_tokens_are_those_of_whole_passes_and_plain_hooks(tiny):
    prompts = chat(tiny, table(TEXTS))
    assert len(stems.stems([p.ids for p in prompts])) >= 2
    found = stems.score_stems(tiny, prompts, everything)
    torch.testing.assert_close(found, reads.score(tiny, prompts, everything)[0], rtol=1e-3, atol=1e-3)
    for p, logits in zip(prompts, found, strict=True):
        theirs, _ = Plain(tiny.module, tiny.name).run(p.ids)
        torch.testing.assert_close(logits, theirs[-1], rtol=1e-3, atol=1e-3)
    small = stems.score_stems_of(replace(tiny, batch_tokens=16), prompts[::-1], everything, "small")
    torch.testing.assert_close(small.flip(0), found, rtol=1e-3, atol=1e-3)


def test_without_anything_in_common(llama):
    (one,) = chat(llama, table(TEXTS[:1]))
    torch.testing.assert_close(
        stems.score_stems(llama, [one], everything), reads.score(llama, [one], everything)[0]
    )
    away = replace(llama, remote="local")
    prompts = chat(llama, table(TEXTS[:3]))
    torch.testing.assert_close(
        stems.score_stems_of(away, prompts, everything, "away"),
        stems.score_stems(llama, prompts, everything),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("least", [1, 3, 8])
def test_stems_are_what_several_begin_with(least, monkeypatch):
    monkeypatch.setattr(stems, "LEAST", least)
    g = torch.Generator().manual_seed(0)
    sequences = [tuple(torch.randint(0, 2, (12,), generator=g).tolist()) for _ in range(60)]
    sequences += [s[:5] + (9,) * 10 for s in sequences[:10]]
    found = stems.stems(sequences)
    assert len(found) == len(set(found)) > 0
    for stem in found:
        begin = [s for s in set(sequences) if s[: len(stem)] == stem]
        assert len(begin) >= 2 and all(len(s) > len(stem) for s in begin)
        # no longer one belongs to all of them, but for what leaves a token to read
        alike = min(stems.shared(begin[0], s) for s in begin)
        assert alike == len(stem) or len(stem) == min(map(len, begin)) - 1
        below = [s for s in found if len(s) < len(stem) and stem[: len(s)] == s]
        assert all(len(stem) - len(s) >= least for s in below)
    assert stems.stems([]) == stems.stems([(1, 2, 3)]) == []
