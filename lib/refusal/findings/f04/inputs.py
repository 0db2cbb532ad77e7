"""What notebook 04 is given beside single numbers, looked at before anything runs."""

from refusal.base.errors import ParameterError


def check(values: dict) -> None:
    """Raise ParameterError for strengths that push nothing or do not rise, and for layers that are no
    numbers.
    """
    alphas, read = values["alphas"], values["read"]
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
    if len(alphas) < 2 or not all(number(a) and a > 0 for a in alphas) or sorted(set(alphas)) != alphas:
        raise ParameterError(
            f"alphas={alphas} is no row of rising strengths above 0",
            "write it as [0.5,1,2], two at the least",
        )
    if not all(type(layer) is int and layer >= 1 for layer in read):
        raise ParameterError(f"read={read} lists no layers", "write it as [4,5], each 1 or more")
