"""What the README and the ledger's page say of constructive safety."""

HEADLINES = {
    "09.over-refusal": (
        "in copies of the 135M model guiding beats refusing ({value}; {without_leaning} without the "
        "scorer's leaning)"
    ),
    "09.gain.is-risk": "the gain is lower risk ({value})",
}
