"""What keeps a model from informing on notebook 06, asked before a run."""

from refusal.findings.f06.asked import lacks_tokens
from refusal.report.outlook import Asked


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: every claim, of a model that has no refusal tokens."""
    why = lacks_tokens(asked.model)
    return {id: why for id in asked.claims if id.startswith("06.")} if why else {}
