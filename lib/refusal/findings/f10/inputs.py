"""What the user's folder `DATA` has to hold, looked at before anything runs."""


def check(values: dict) -> None:
    """Raise ParameterError for a folder that does not hold the released files in their form."""
    if values["DATA"]:
        from refusal.findings.f10 import released

        released.check(values["DATA"])


def hashes(values: dict) -> dict[str, str]:
    """The SHA-256 of each released file in the folder."""
    from refusal.findings.f10 import released

    return released.hashes(values["DATA"])
