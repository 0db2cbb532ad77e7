"""What a measurement gives: a value, its interval and how many items are behind it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """`value` is a number, a list of them (along layers, say), or None where nothing was measured. `ci95` is
    both ends of its interval, a list of such pairs, or None. `n` counts items.
    """

    value: Any  # float | list | None: which of them follows from what was asked for
    ci95: Any
    n: int

    def under(self, name: str) -> dict:
        """A control called `name` with its interval beside it, so that a rule can ask for it."""
        return {name: self.value, f"{name}_ci95": self.ci95}


NOTHING = Estimate(None, None, 0)
