"""What keeps a model from informing on notebook 07, asked before a run."""

from refusal.findings.f07.measured import cannot_search
from refusal.report.outlook import Asked


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: every claim, of a model that hardly refuses harmful prompts, or harmless ones as well."""
    hits = {g: (rows.outcome == "refusal").to_numpy() for g, rows in asked.answers.groupby("label")}
    why = cannot_search(hits["harmless"], hits["harmful"])
    return {id: why for id in asked.claims if id.startswith("07.")} if why else {}
