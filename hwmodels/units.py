"""Integer arithmetic on tile sizes and byte counts."""


def ceil_div(numerator: int, denominator: int) -> int:
    """Return the smallest integer that is at least ``numerator / denominator``."""
    return -(-numerator // denominator)


def align_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of ``alignment`` that is at least ``value``."""
    return ceil_div(value, alignment) * alignment
