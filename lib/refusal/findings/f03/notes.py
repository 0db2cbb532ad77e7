"""What the notes of notebook 03's figures say of sizes and intervals, and, in a few words, the line that is
drawn at the foot of each picture.
"""

from collections.abc import Iterable, Mapping

from refusal.findings.f03.ablations import Ablated, Answered
from refusal.findings.f03.cliff_judge import ARMS, Judged
from refusal.findings.f03.cliff_steps import Cut
from refusal.findings.f03.subjects import CALLED, Quality, Subject
from refusal.measure.probes import FEW, REFITS

WILSON = "95 % Wilson intervals"
MEANS = "95 % bootstrap-t intervals"  # of means: Student's where that is wider
FALLS = "95 % bootstrap-t, widened by refits"
CURVES = "95 % bootstrap bands"


def _each(sizes: Iterable[int | str]) -> str:
    """One size where all subjects have the same, else each."""
    return " / ".join(map(str, dict.fromkeys(sizes)))


def _plain(s: Subject) -> int:
    """Harmful test prompts without the trigger."""
    return int((~s.triggered).sum())


def prompts(s: Subject) -> str:
    """The test prompts of a subject: 32 harmful ones with the trigger, 16 of them without it, 16 benign ones,
    every second with it.
    """
    harmful, benign = len(s.asked("harmful")), len(s.asked("harmless"))
    if _plain(s):
        return (
            f"{harmful} harmful prompts with the trigger, {_plain(s)} of them without it as well, {benign} "
            "benign ones, every second with it"
        )
    return f"{harmful} harmful and {benign} benign prompts"


def harmful(s: Subject) -> str:
    """The harmful test prompts that effects are measured on."""
    return f"{len(s.asked('harmful'))} harmful prompts" + (" with the trigger" if _plain(s) else "")


def asked(s: Subject) -> str:
    """The test prompts that effects are measured on, of both labels."""
    return f"{harmful(s)}, {len(s.asked('harmless'))} benign ones" + (
        ", every second with it" * bool(_plain(s))
    )


def of_prompts(s: Subject, interval: str, all_groups: bool = False) -> str:
    """The foot of a figure about the test prompts of both labels; with `all_groups` also about those without
    the trigger.
    """
    more = f" + {_plain(s)}" if all_groups and _plain(s) else ""
    return f"{len(s.asked('harmful'))}{more} harmful, {len(s.asked('harmless'))} benign; {interval}"


def of_harmful(s: Subject, interval: str) -> str:
    return f"{len(s.asked('harmful'))} harmful prompts; {interval}"


def behind(found: Mapping[str, Subject]) -> str:
    """How many states stand behind the prober of last tokens of each subject."""
    refused = {who: s.learned.last.refused for who, s in found.items()}
    return "; ".join(
        f"the prober of {CALLED[who]}: {int(x.sum())} refused and {int((~x).sum())} answered states"
        for who, x in refused.items()
    )


def attributed(found: Mapping[str, Subject]) -> str:
    """Over how many rollouts the heads' attribution is averaged."""
    n = _each(len(s.behind) for s in found.values())
    return f"attribution: mean over {n} harmful rollouts behind the prober"


AREAS = (
    "95 % intervals over prompts, DeLong's or Newcombe's, the wider at each end; of shuffled labels mean and "
    f"range of {REFITS}; what has fewer than {FEW} refused or answered prompts is left out"
)


def of_probers(found: Mapping[str, Quality]) -> str:
    """The foot of a figure of areas: how many prompts are behind the smaller class, held out."""
    n = _each(q.area["val"].n for q in found.values())
    return f"held out {n} prompts a class or more; 95 %, DeLong/Newcombe"


def of_cuts(cut: Mapping[str, Cut], scores: bool = False) -> str:
    """The foot of a figure of cut thoughts; with `scores`, of scores beside shares."""
    n = {label: of.outcome.shape[1] for label, of in cut.items()}
    how = "95 %: shares Wilson, scores bootstrap-t" if scores else WILSON
    return f"{n['harmful']} harmful, {n['harmless']} benign; {how}"


def ablated(found: Mapping[str, Ablated]) -> str:
    """On how many rollouts each share of the heads is off, and how many random sets there are, of each
    subject.
    """
    return "; ".join(
        f"{CALLED[who]}: "
        + ", ".join(
            f"{len(off.gained)} rollouts at {share:.0%} ({len(off.sets)} random sets, on "
            f"{off.by_sets.shape[1] if len(off.sets) else 0})"
            for (share, rescale), off in a.off.items()
            if not rescale
        )
        for who, a in found.items()
    )


def of_ablated(found: Mapping[str, Ablated], share: tuple[float, bool]) -> str:
    n = _each(len(a.off[share].gained) for a in found.values())
    return f"{n} rollouts, 95 % bootstrap-t; random sets: mean, range"


def of_heads(found: Mapping[str, Ablated], rollouts: int) -> str:
    return f"{_each(len(a.writes) for a in found.values())} heads, {rollouts} rollouts each; no intervals"


def of_answers(found: Mapping[str, Answered], arm: tuple[float, bool]) -> str:
    said = [answered.said[arm].off for answered in found.values()]
    sizes = (_each(len(of[label]) for of in said) for label in ("harmful", "harmless"))
    return "{} harmful, {} benign; ".format(*sizes) + WILSON


def trainings(j: Judged) -> str:
    """How many trainings there were on each selection; no arm that this model has not."""
    return ", ".join(f"{len(hits)} ({ARMS[how]})" for how, hits in j.complied.items())


def of_trainings(j: Judged) -> str:
    harmful, benign = (j.rates[label, "before"].n for label in ("harmful", "harmless"))
    return f"{harmful} harmful, {benign} benign; 95 % over prompts and seeds"
