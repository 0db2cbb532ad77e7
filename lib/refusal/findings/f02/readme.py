"""What the README and the ledger's page say of harmfulness and refusal."""

from refusal.report.pages import Picture
from refusal.report.rules import Record
from refusal.report.shown import percent

HEADLINES = {
    "02.cosine.distinct": "the two directions are distinct (cosine {value})",
    "02.cluster.t_post": "at `t_post` behaviour counts, not harm",
    "02.single.ablate": "without one direction refusals cease ({share} left)",
}


def picture(folder: str, model: str, records: list[Record]) -> Picture | None:
    """Harmless requests that `model` refuses when a direction is added; its figures stand in `folder`. None
    where that was not measured.
    """
    r = {r.id: r for r in records}.get("02.steer.harm.instruction")
    if r is None or r.ci95 is None:
        return None
    said = (
        f"Adding v_harm, from harmless to harmful, to the instruction tokens makes `{model}` refuse "
        f"{percent(r.value)} of {r.n} harmless requests that it answers otherwise (95 % interval "
        f"{percent(r.ci95[0])} to {percent(r.ci95[1])}; random directions: up to "
        f"{percent(r.number('random_direction_high'))}): **{r.verdict}**."
    )
    return Picture(
        f"{folder}/steering_rates.png",
        f"Share of harmless requests that {model} refuses when a direction is added, beside random ones",
        said,
    )
