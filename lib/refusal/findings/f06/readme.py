"""What the README and the ledger's page say of refusal tokens."""

HEADLINES = {
    "06.token.switches": "forcing the token moves refusals of unsafe requests ({value})",
    "06.token.reads": "its probability ranks requests (AUROC {value}, the best reader of text {best_reader})",
    "06.dial.beats-probe": "the dial is better than a probe before training ({value})",
}
