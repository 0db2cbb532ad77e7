"""What the README and the ledger's page say of predicting refusals."""

HEADLINES = {
    "10.judge.agreement": "the judge agrees with labels that were read (κ {value})",
    "10.inside.t_post": "states at `t_post` foretell refusals (AUROC {prober}, the text {text})",
}
