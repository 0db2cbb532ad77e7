"""What the README and the ledger's page say of the cliff."""

from refusal.report.render import standing
from refusal.report.rules import Record

HEADLINES = {
    "03.cliff": "the refusal score falls before the answer",
    "03.truncation": "with its thinking cut it refuses more (by {share})",
}


def paragraph(records: list[Record]) -> str | None:
    """What notebook 03 says about its paper, and whether its instrument finds a cliff that is there: a
    paragraph from its ledger; None where it was not run.
    """
    by = {r.id: r for r in records if r.id.startswith("03.")}
    if not by:
        return None
    parts = [
        "*Refusal cliff.* "
        + standing([r.verdict for r in by.values() if r.origin == "paper" and r.evidence == "released"])
    ]
    kinds = {
        "": "trained on last tokens",
        ".all-positions": "that has seen thinking as well",
        ".published": "as published",
    }
    found = {words: by[id] for suffix, words in kinds.items() if (id := f"03.instrument.cliff{suffix}") in by}
    path = lambda r: f"{r.controls['plateau']:.2f} to {r.controls['final']:.2f}"
    if len(found) == len(kinds) and all(r.value is not None for r in found.values()):
        falls = "; ".join(f"from {path(r)} by the prober {words} ({r.verdict})" for words, r in found.items())
        parts.append(
            f"In the planted reasoner, which complies, the mean score of the thinking and that of the last "
            f"token go {falls}."
        )
    twin, cut = by.get("03.instrument.twin.all-positions"), by.get("03.truncation")
    if twin and twin.value is not None:
        parts.append(
            f"In its twin, which refuses, they go from {path(twin)} by the prober that has seen thinking."
        )
    if cut and cut.value is not None:
        parts.append(
            f"Cutting all of its thinking changes the share of harmful prompts that the reasoner refuses by "
            f"{100 * cut.value:.0f} points."
        )
        if (given := cut.controls.get("given_a_thought_that_refuses")) is not None:
            parts.append(f"Given a thought that decides to refuse, it refuses {given:.0%}.")
    return " ".join(parts)
