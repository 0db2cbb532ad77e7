"""What the README and the ledger's page say of steering controllers."""

HEADLINES = {
    "04.gain.fixed": "it gains on a fixed push ({value})",
    "04.gain.threshold": "on a threshold ({value})",
    "04.gain.text": "and on a gate by text ({value})",
}
