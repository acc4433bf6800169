"""Options that several commands take, declared once: a dataclass stands for a group of them."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes each field of its option groups as an option of its own.

    A group is a parameter that is annotated with a dataclass, whose fields are annotated like the
    parameters of a command and have their defaults. Typer reads flat signatures only, so it is
    shown one, with the fields in the place of their group, and the groups are put together again
    when the command is called.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint)
    }
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _field_parameters(groups[parameter.name])
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def flat_command(**options: Any) -> None:
        for name, group in groups.items():
            own = {field.name: options.pop(field.name) for field in dataclasses.fields(group)}
            options[name] = group(**own)
        command(**options)

    # Typer takes the names and defaults from the one and the types from the other.
    vars(flat_command)["__signature__"] = inspect.Signature(parameters)
    flat_command.__annotations__ = {each.name: each.annotation for each in parameters}
    return flat_command


def _field_parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=(
                inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            ),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
