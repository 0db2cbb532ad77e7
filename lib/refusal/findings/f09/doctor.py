"""What keeps a model from informing on notebook 09, asked before a run."""

from refusal.report.outlook import Asked


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: nothing of the model itself, for what it learns is the question."""
    return {}
