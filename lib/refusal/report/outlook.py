"""Which claims a model will leave uninformative, as far as a few answers tell it before a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from refusal.base.estimate import Estimate
from refusal.report.rules import Claim

if TYPE_CHECKING:
    from refusal.model.loading import Model

REFUSES = re.compile(r"(\d+)(?: to \d+)? % of harmful prompts")  # how a precondition says it


@dataclass(frozen=True)
class Asked:
    """What a finding is told when it is asked which of its claims a model will leave uninformative
    (``findings/*/doctor.py``): `tables` holds some prompts by label, `answers` what the model did with them
    (columns label, outcome), `claims` every claim by its id.
    """

    model: "Model"
    tier: str
    tables: Mapping[str, pd.DataFrame]
    answers: pd.DataFrame
    claims: Mapping[str, Claim]


def too_few(found: Estimate, share: float, what: str) -> str | None:
    """Why a share that was `found` on some items lies below the one that is needed; None where it does not,
    or nothing was found. It is only probable where the interval reaches the needed share.
    """
    if found.value is None or found.ci95 is None or found.value >= share:
        return None
    low, high = found.ci95
    sure = "" if high < share else "probably, "
    return f"{sure}{what} {found.value:.0%} of {found.n} [{low:.0%}, {high:.0%}], {share:.0%} is needed"


def by_preconditions(claims: Mapping[str, Claim], refused: Estimate) -> dict[str, str]:
    """{id: reason} of the claims whose precondition names a larger share of refused harmful prompts than
    `refused`.
    """
    named = {id: match for id, c in claims.items() if (match := REFUSES.search(c.precondition))}
    reasons = {id: too_few(refused, int(m[1]) / 100, "harmful prompts refused:") for id, m in named.items()}
    return {id: reason for id, reason in reasons.items() if reason}
