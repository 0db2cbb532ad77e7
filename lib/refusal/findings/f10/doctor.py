"""What keeps a model from informing on notebook 10, asked before a run."""

from refusal import data
from refusal.findings.f10.measured import NO_DATA, no_labels
from refusal.findings.f10.predict import LEAST, MOST
from refusal.measure import stats
from refusal.report.outlook import Asked, too_few

OF_DATA = ("10.data.", "10.recognise.carries.", "10.judge.elsewhere.")
OF_LABELS = ("10.judge.", "10.recognise.bootstrap")
OF_REFUSALS = ("10.prompt.", "10.inside.", "10.ngrams")


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: what needs the released files, labelled answers of this model, or refusals neither of
    hardly any harmful prompt nor of nearly all.
    """
    found = {id: NO_DATA for id in asked.claims if id.startswith(OF_DATA)}
    if asked.model.name not in set(data.judged_answers().model):
        why = no_labels(None)
        assert why is not None
        found |= {
            id: why
            for id in asked.claims
            if id.startswith(OF_LABELS) and id != "10.judge.cases" and id not in found
        }
    harmful = asked.answers.outcome[asked.answers.label == "harmful"]
    refused, answered = (stats.rate(harmful == outcome) for outcome in ("refusal", "answer"))
    reason = too_few(refused, LEAST, "harmful prompts refused:") or too_few(
        answered, 1 - MOST, "harmful prompts answered:"
    )
    if reason:
        found |= {id: reason for id in asked.claims if id.startswith(OF_REFUSALS)}
    return found
