"""What files of settings have in common: TOML of strict sections, with keys in kebab-case."""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic.fields import FieldInfo

_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(|[kMGT]i?)B")
_UNITS = ("", "k", "M", "G", "T")

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A table of such a file: no keys but its own, no values but of their types."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class StoreSection(Section):
    """Where every round is recorded; see docs/store.md.

    Attributes:
        address: A folder, from the file's own, or ``s3://BUCKET/PREFIX?endpoint=URL``; empty for
            nowhere.
        catalog: File of the entries' catalog, if they are in no folder.
    """

    address: str = ""
    catalog: str = ""

    def placed(self, folder: Path) -> StoreSection:
        """Return it with paths from a folder made absolute."""
        is_path = self.address and "://" not in self.address
        address = str(folder / self.address) if is_path else self.address
        catalog = str(folder / self.catalog) if self.catalog else ""
        return self.model_copy(update={"address": address, "catalog": catalog})


def read_toml(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a file holds.

    Args:
        path: The file.
        overrides: Values that take the place of the file's, by ``section.key``.

    Raises:
        ConfigError: It cannot be read, or has no place for an override; names the file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        table = content.setdefault(section, {})
        if not key or not isinstance(table, dict):
            raise ConfigError(f"{path}: {name}: there is no such key")
        table.pop(key.replace("_", "-"), None)
        table.pop(key.replace("-", "_"), None)
        table[key] = value
    return content


def validated(model: type[Model], content: Mapping[str, Any], origin: str) -> Model:
    """Return what a file holds as its model.

    Args:
        model: All its sections.
        content: As ``read_toml`` returned it.
        origin: The file, for messages.

    Raises:
        ConfigError: Names the file, each key that is wrong, and why.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error, model)}") from error


def parse_bytes(text: int | str) -> int:
    """Return a size that is written as in ``60MB`` or ``1.5 GiB``, or as a number of bytes.

    Raises:
        ValueError: It is none.
    """
    if isinstance(text, int) and text >= 0:
        return text
    found = _BYTES.fullmatch(str(text))
    if found is None:
        raise ValueError(f"want a size such as 60MB or 1.5GiB, got {text!r}")
    unit = found[2]
    base = 1024 if unit.endswith("i") else 1000
    scale: int = base ** _UNITS.index(unit[:1])
    return round(float(found[1]) * scale)


def _checked_size(value: int | str) -> int | str:
    parse_bytes(value)
    return value


Size = Annotated[int | str, AfterValidator(_checked_size)]
"""A number of bytes, or one written as in ``60MB``; ``parse_bytes`` reads it."""


def pythonic(value: Any) -> Any:
    """Return a value whose keys, and those of the tables in it, are names of Python."""
    if isinstance(value, dict):
        return {key.replace("-", "_"): pythonic(each) for key, each in value.items()}
    return value


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for each in error.errors(include_url=False):
        where = ".".join(str(part).replace("_", "-") for part in each["loc"])
        reason = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            reason = f"there is no such key{_meant(each['loc'], model)}"
        elif each["type"] == "value_error":
            pass  # of our own, and says what it found
        elif each["type"] == "missing":
            reason = "it is missing"
        else:
            reason = f"{reason[0].lower()}{reason[1:]}, got {each['input']!r}"
        lines.append(f"{where}: {reason}" if where else reason)
    return "; ".join(lines)


def _meant(place: Sequence[int | str], model: type[BaseModel]) -> str:
    """Return what to say of the keys that there are where one is not, "" of a table of any keys."""
    *tables, key = place
    kind: Any = model
    for name in tables:
        if isinstance(name, int):
            (kind, *_) = get_args(kind) or (None,)
        else:
            found = _fields(kind).get(name.replace("-", "_"))
            kind = None if found is None else found.annotation
    known = [name.replace("_", "-") for name in _fields(kind)]
    close = difflib.get_close_matches(str(key).replace("_", "-"), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


def _fields(kind: Any) -> Mapping[str, FieldInfo]:
    """Return the keys of a section, or of one that may be left out."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each.model_fields
    return {}
