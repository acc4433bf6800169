"""A kind of work: what it has to read, and what it makes of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store.access import UPDATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.store.access import Access
    from hocket.fl.store.catalog import Catalog, Entry

    Memory = Callable[[int], memoryview]

Option = int | float | str | bool


@dataclass(frozen=True)
class Question:
    """What is asked of the store.

    Attributes:
        job: Of which federation.
        round: Of which round; None for the last one that has what is needed.
        device: Of which device, where it is about one.
        options: What else the workload takes; its docstring says.
    """

    job: str
    round: int | None = None
    device: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    def number(self, name: str, default: float, least: float = 0.0) -> float:
        """Return an option that is a number.

        Raises:
            ConfigError: It is none, or less than ``least``.
        """
        found = self.options.get(name, default)
        if isinstance(found, (str, bool)) or not np.isfinite(found) or found < least:
            raise ConfigError(f"option {name!r}: want a number of {least:g} or more, got {found!r}")
        return found

    def count(self, name: str, default: int, least: int = 1) -> int:
        """Return an option that is a whole number.

        Raises:
            ConfigError: It is none, or less than ``least``.
        """
        found = self.number(name, default, least)
        if found != int(found):
            raise ConfigError(f"option {name!r}: want a whole number, got {found!r}")
        return int(found)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return an option that is one of some words, the first by default.

        Raises:
            ConfigError: It is none of them.
        """
        found = self.options.get(name, choices[0])
        if found not in choices:
            raise ConfigError(f"option {name!r}: want one of {', '.join(choices)}, got {found!r}")
        return str(found)


@dataclass(frozen=True)
class Plan:
    """What a question comes to.

    Attributes:
        facts: What is known without opening an entry, as JSON has it.
        keys: Entries to be read; none where the facts say it all.
    """

    facts: Mapping[str, Any]
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True, eq=False)
class Answer:
    """What work came to.

    Attributes:
        values: As JSON has it.
        arrays: A model, if one was made.
        content: The model as one object, over which the arrays are, if it was made as such.
    """

    values: Mapping[str, Any]
    arrays: Parameters = field(default_factory=dict)
    content: memoryview | None = None


class Prepare(Protocol):
    """Says what a question needs; asks nothing but the catalog."""

    def __call__(self, catalog: Catalog, question: Question) -> Plan:
        """Return the plan.

        Raises:
            ConfigError: The question cannot be answered; says what is missing.
        """
        ...


class Compute(Protocol):
    """Makes the answer; reads nothing but what it is given, wherever it runs."""

    def __call__(
        self, facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]
    ) -> Answer:
        """Return the answer.

        Args:
            facts: Of the plan.
            contents: The entries of the plan, in its order; not to be changed.
        """
        ...


class ComputeInto(Protocol):
    """Makes a model where who asks wants it to be."""

    def __call__(
        self,
        facts: Mapping[str, Any],
        contents: Sequence[tuple[Key, memoryview]],
        memory: Memory = ...,
    ) -> Answer:
        """Return the answer, whose content is in the memory.

        Args:
            facts, contents: As for ``Compute``.
            memory: Gives as many bytes as it is asked for, once; new ones by default.
        """
        ...


@dataclass(frozen=True)
class Workload:
    """A kind of work.

    Attributes:
        name: Of it.
        access: What it reads, for the cache.
        about: What it tells, in a sentence.
        prepare, compute: Its two halves.
    """

    name: str
    access: Access
    about: str
    prepare: Prepare
    compute: Compute


@dataclass(frozen=True)
class MakingWorkload(Workload):
    """Work that makes a model, where who asks wants it to be."""

    compute: ComputeInto


def fresh_memory(num_bytes: int) -> memoryview:
    """Return new memory of so many bytes."""
    return np.empty(num_bytes, np.uint8).data


@dataclass(frozen=True, eq=False)
class Round:
    """The updates of a round.

    Attributes:
        number: Which round.
        devices: Whose, in order.
        weights: ``[devices]``: examples each was trained on, 1 if nobody has said.
    """

    number: int
    devices: tuple[str, ...]
    weights: NDArray[np.float64]

    def keys(self, job: str) -> tuple[Key, ...]:
        """Return the updates' keys."""
        return tuple(Key(job, self.number, device, UPDATE) for device in self.devices)


def round_of(catalog: Catalog, question: Question) -> Round:
    """Return the round that a question is about.

    Raises:
        ConfigError: It has no updates.
    """
    number = question.round
    if number is None:
        number = max(catalog.rounds(question.job, UPDATE), default=0)
    entries = catalog.entries(question.job, (number, number), kind=UPDATE)
    if not entries:
        rounds = catalog.rounds(question.job, UPDATE)
        known = f"it has some of rounds {rounds[0]} to {rounds[-1]}" if rounds else "it has none"
        raise ConfigError(f"job {question.job!r}: there are no updates of round {number}; {known}")
    return round_from(number, entries)


def round_from(number: int, entries: Sequence[Entry]) -> Round:
    """Return a round from what is known of its updates."""
    return Round(
        number,
        tuple(entry.key.device for entry in entries),
        np.array([entry.metrics.get("num_examples", 1.0) for entry in entries]),
    )


def products_of(catalog: Catalog, job: str, members: Round) -> NDArray[np.float64]:
    """Return the products of a round's updates with each other, ``[devices, devices]``.

    Raises:
        ConfigError: Some were not worked out when the updates came.
    """
    found = catalog.products(job, members.number, UPDATE, members.devices)
    if np.isnan(found).any():
        raise ConfigError(
            f"job {job!r}, round {members.number}: the products of its updates are not known; "
            "put updates by `ingest`, which works them out for updates of the same arrays"
        )
    return found
