"""A cascade as values of JSON: what a server tells its clients, and leaves for evaluation."""

from __future__ import annotations

from typing import Any

from hocket.fl.core.errors import ConfigError
from hocket.fl.fat.partition import Cascade, CascadeModule


def cascade_to_json(cascade: Cascade) -> list[dict[str, Any]]:
    """Return the modules, in order; ``cascade_from_json`` reads them."""
    return [
        {
            "start": module.start,
            "stop": module.stop,
            "owned": sorted(module.owned),
            "exit_owned": sorted(module.exit_owned),
        }
        for module in cascade.modules
    ]


def cascade_from_json(modules: list[dict[str, Any]]) -> Cascade:
    """Return the cascade that ``cascade_to_json`` wrote.

    Raises:
        ConfigError: A key is missing, or the modules do not make up a model.
    """
    try:
        return Cascade(
            tuple(
                CascadeModule(
                    number,
                    str(each["start"]),
                    str(each["stop"]),
                    frozenset(each["owned"]),
                    frozenset(each["exit_owned"]),
                )
                for number, each in enumerate(modules)
            )
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"modules of a cascade: {error!r} is missing or of no use") from error
