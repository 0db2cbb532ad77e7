"""What the README and the ledger's page say of predicting refusals."""

HEADLINES = {
    "10.judge.agreement": "the judge agrees with labels that were read (κ {value})",
    "10.prompt.outside": "a prompt's text foretells its refusal (AUROC {value})",
    "10.inside.t_post": "the states at `t_post` tell more (AUROC {prober}, text {text})",
}
