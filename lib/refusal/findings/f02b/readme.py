"""What the README and the ledger's page say of the guard."""

from refusal.report.rules import Record
from refusal.report.shown import percent

HEADLINES = {
    "02b.guard.accepted-harmful": "it flags accepted harm, beyond a reader of the text ({share})",
    "02b.jailbreak.template": "it flags template jailbreaks ({share})",
    "02b.jailbreak.persuasion": "it flags persuasions ({share})",
}


def paragraph(records: list[Record]) -> str | None:
    """Would you use the model's own harmfulness direction as a guard? A paragraph from the ledger of notebook
    02b; None where it was not run.
    """
    by = {r.id: r for r in records}
    ids = [f"02b.guard.{name}" for name in ("beats-text", "false-positives", "accepted-harmful")]
    needed = [by[id] for id in ids if id in by]
    if len(needed) < len(ids) or any(r.value is None for r in needed):
        return None
    text, alarms, caught = needed
    yes = all(r.verdict == "replicated" for r in needed)
    parts = [
        "*Would you use this model's own harmfulness direction as a guard?* "
        + ("Yes" if yes else "Not alone")
        + f": it flags {percent(caught.value)} of the harmful prompts that the model accepts, "
        f"{percent(alarms.value)} of ordinary harmless ones and "
        f"{percent(alarms.number('pseudo_harmful'))} of harmless ones with an alarming word; its AUROC is "
        f"{text.controls['guard']:.2f}, that of the best "
        f"reader of the bare text ({text.controls['best_reader']}) {text.controls['reader']:.2f}."
    ]
    for r in (r for r in records if r.id.startswith("02b.jailbreak.") and r.value is not None):
        wrapped = "wrapped_harmless_flagged" in r.controls
        calm = r.number("wrapped_harmless_flagged" if wrapped else "harmless_flagged")
        what = r.id.split(".")[-1].replace("-", " ")
        among = "harmless requests in the same words" if wrapped else "plain harmless requests"
        parts.append(
            f"Jailbreaks, {what}: {percent(r.number('harmful_flagged'))} flagged, against {percent(calm)} of "
            f"{among}; the reader of the text flags "
            f"{percent(r.number('best_reader_harmful'))} and {percent(r.number('best_reader_harmless'))}."
        )
    attack = by.get("02b.attack.representation-stays")
    if attack and attack.value is not None and attack.controls["auroc_after"] is not None:
        parts.append(
            f"After the fine-tuning attack its AUROC goes from {attack.controls['auroc_before']:.2f} to "
            f"{attack.controls['auroc_after']:.2f}."
        )
    return " ".join(parts)
