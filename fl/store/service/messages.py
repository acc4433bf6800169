"""What the store's service is asked; the names of fields are the keys of its JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from hocket.fl.core.store import Key


class Message(BaseModel):
    """Anything that is said to the service."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class About(Message):
    """What is known of an entry that is put, in a header.

    Attributes:
        metrics: Numbers by name.
        provenance: Words by name.
        made_from: Of a model: keys of updates, and their shares.
    """

    metrics: dict[str, float] = Field(default_factory=dict, max_length=100)
    provenance: dict[str, str] = Field(default_factory=dict, max_length=100)
    made_from: dict[str, float] = Field(default_factory=dict, max_length=10_000)

    def parents(self) -> dict[Key, float]:
        """Return what it was made from.

        Raises:
            ConfigError: A key is none.
        """
        return {Key.parse(key): share for key, share in self.made_from.items()}


class Select(Message):
    """A question in SQL.

    Attributes:
        statement: Over ``entries``, ``lineage``, ``statistics``, ``products``.
    """

    statement: str = Field(max_length=10_000)


class Ask(Message):
    """A question of a workload, as ``Question`` has it."""

    job: str
    round: int | None = Field(default=None, ge=0)
    device: str | None = None
    options: dict[str, int | float | str | bool] = Field(default_factory=dict, max_length=100)


class Collect(Message):
    """What to forget before bytes that no entry has are deleted.

    Attributes:
        job: Whose entries.
        keep_rounds: All but its last rounds.
        erase_device: All that a device sent.
        grace_seconds: Younger bytes stay.
    """

    job: str | None = None
    keep_rounds: int | None = Field(default=None, ge=1)
    erase_device: str | None = None
    grace_seconds: float = Field(default=3600.0, ge=0)
