"""How the commands show what a program takes, and that an attention does not fit a machine."""

from typing import Any

from rich.console import Console

NOTHING_FITS = 1
"""Exit status where no program of what was asked for fits the machine."""

_MAX_GANTT_COLUMNS = 120
# What stands to the left of the chart: the core and the unit.
_GANTT_MARGIN = 16


def gantt_columns(console: Console) -> int:
    """Return how many columns a text Gantt chart may have on a console."""
    return max(min(console.width, _MAX_GANTT_COLUMNS) - _GANTT_MARGIN, 20)


def print_infeasible(console: Console, name: str, answer: dict[str, Any]) -> None:
    """Say why an attention does not fit its machine.

    Args:
        console: Where to say it.
        name: What does not fit, for people.
        answer: What ``infeasible_to_json`` returns.
    """
    console.print(f"{name} does not fit {answer['target']}:", style="yellow")
    for line in answer["infeasible"]:
        console.print(f"  {line}", soft_wrap=True)


def format_ratio(ratio: float) -> str:
    """Return a ratio to the bound, ``1.04x``; with one more digit where that shows."""
    return f"{ratio:.3f}x" if ratio < 1.1 else f"{ratio:.2f}x"


def format_joules(joules: float) -> str:
    """Return an energy for people, ``2.26 mJ``."""
    for factor, unit in ((1, "J"), (1e3, "mJ"), (1e6, "uJ")):
        if joules * factor >= 1 or unit == "uJ":
            return f"{joules * factor:.4g} {unit}"
    raise AssertionError("unreachable")
