"""What keeps a model from informing on notebook 05, asked before a run."""

from refusal.report.outlook import Asked


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: of a model whose refusals are too few to say how they begin, all that rests on them."""
    harmful = asked.answers[asked.answers.label == "harmful"]
    if (harmful.outcome == "refusal").any():
        return {}
    kinds = ("05.shift.own", "05.shift.neutral", "05.shift.not-harm", "05.dro.")
    why = f"none of {len(harmful)} harmful prompts is refused"
    return {id: why for id in asked.claims if id.startswith(kinds)}
