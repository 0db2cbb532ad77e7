"""What keeps a model from informing on notebook 04, asked before a run."""

from refusal.findings.f04.measured import cannot_steer
from refusal.report.outlook import Asked


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: every claim, of a model that refuses hardly any harmful prompt or nearly all."""
    harmful = asked.answers[asked.answers.label == "harmful"]
    why = cannot_steer((harmful.outcome == "refusal").to_numpy(), fewest=0)
    return {id: why for id in asked.claims if id.startswith("04.")} if why else {}
