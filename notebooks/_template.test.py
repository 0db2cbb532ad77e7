"""Each claim of notebook NN can be met and can fail: outcomes of an ideal result and of ideal
counter-results, in the notebook's default sizes.
"""

from refusal.base.estimate import Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.fNN import measured
from refusal.report.rules import Measured, decide, read_claims
from refusal.run.params import parameters_of

BOOK = NOTEBOOKS / "NN_name.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
N = parameters_of(BOOK)["N"].default


def verdict(id: str, found: Estimate, controls: dict) -> str:
    return decide(CLAIMS[id].rule, Measured(**vars(found), controls=controls))[0]


def outcomes(refused: float, otherwise: str = "answer", n: int = N) -> list[str]:
    return ["refusal" if k < round(refused * n) else otherwise for k in range(n)]


def test_refuses_harmful_more():
    ask = lambda *said: verdict("NN.refuses.harmful-more", *measured.refusal_gap(*said))
    assert ask(outcomes(0.9), outcomes(0.05)) == "replicated"
    assert ask(outcomes(0.5), outcomes(0.5)) == "not replicated"  # refuses whatever it is asked
    assert ask(outcomes(0.05), outcomes(0.9)) == "not replicated"
    assert ask(outcomes(0.9), outcomes(0.05, "degenerate")) == "not replicated"  # broken text is no answer
    assert ask(outcomes(0.9, n=10), outcomes(0.05, n=10)) == "underpowered"


def test_every_claim_has_its_ideal_here():
    assert set(CLAIMS) == {"NN.refuses.harmful-more"}
