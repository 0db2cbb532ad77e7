"""What keeps a model from informing on notebook 02, asked before a run."""

from refusal.findings.f02.harmfulness import AFTER, BEFORE, JUDGES, REFUSES, TELLS
from refusal.measure import stats
from refusal.measure.judge import judge_inversion
from refusal.measure.readouts import inversion_readout
from refusal.report.outlook import Asked, too_few
from refusal.trace import decode, reads
from refusal.trace.prompts import chat


def uninformative(asked: Asked) -> dict[str, str]:
    """{id: reason}: all claims where the model hardly refuses, for the notebook ends there; those of the
    inversion task where it is not shown to judge harm in words.
    """
    mine = [id for id in asked.claims if id.startswith("02.")]
    refused = stats.rate(asked.answers.outcome[asked.answers.label == "harmful"] == "refusal")
    if reason := too_few(refused, REFUSES, "harmful prompts refused:"):
        return dict.fromkeys(mine, reason)
    inversion = [id for id in mine if id.startswith("02.inversion.")]
    ask = {label: chat(asked.model, asked.tables[label], BEFORE, AFTER) for label in ("harmful", "harmless")}
    reading = inversion_readout(asked.model, ())
    told = stats.auroc(*(reads.score(asked.model, p, reading)[0, :, 0].numpy() for p in ask.values()))
    if told.value <= TELLS:
        sure = "" if told.ci95[1] <= TELLS else "probably, "
        told_apart = f"AUROC {told.value:.2f} [{told.ci95[0]:.2f}, {told.ci95[1]:.2f}], {TELLS} is needed"
        return dict.fromkeys(inversion, f"{sure}it does not tell harmful requests in words: {told_apart}")
    found = {}
    for label, word in (("harmful", "certainly"), ("harmless", "no")):
        replies = decode.generate(asked.model, ask[label], decoding=12)[0]
        said = stats.rate([judge_inversion(text) == word for text in replies])
        if reason := too_few(
            said, JUDGES, f"asked for harm, it says {word.capitalize()} to {label} requests:"
        ):
            of_harmful = label == "harmful"
            found |= {id: reason for id in inversion if id.endswith(".harmful") == of_harmful}
    return found
