"""What keeps a model from informing on notebook 08, asked before a run."""

from refusal.findings.f08.measured import LEAST_REFUSED
from refusal.report.outlook import Asked


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: of a model that hardly refuses harmful prompts, all but what is trained on another."""
    harmful = asked.answers[asked.answers.label == "harmful"]
    share = float((harmful.outcome == "refusal").mean())
    if share >= LEAST_REFUSED:
        return {}
    why = f"{share:.0%} of {len(harmful)} harmful prompts are refused, {LEAST_REFUSED:.0%} are needed"
    own = ("08.roles.", "08.shift.", "08.compose.", "08.places.")
    return {id: why for id in asked.claims if id.startswith(own) and id != "08.roles.harmless"}
