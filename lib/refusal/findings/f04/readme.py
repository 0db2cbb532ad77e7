"""What the README and the ledger's page say of steering controllers."""

HEADLINES = {
    "04.reads.matched": "a controller reads harm in prompts of one form (AUROC {value})",
    "04.gain.fixed": "at equal cost it refuses more than a fixed push ({value})",
    "04.gain.text": "but than a reader of text before the same push ({value})",
}
