"""Partial training: devices train narrow copies of a model, as wide as they have the memory for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.strategy import ServerState
from hocket.fl.fat.baselines.family import FamilyTraining, member_of
from hocket.fl.fat.baselines.widths import (
    CHOICES,
    Choice,
    Widths,
    choose_units,
    cut_out,
    mean_of_copies,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hocket.fl.core.client import Client
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, ClientUpdate, Setting
    from hocket.fl.fat.baselines.widths import Units

_CHOICE, _SEED = "partial.choice", "partial.seed"


@dataclass(frozen=True)
class PartialTraining(FamilyTraining):
    """Trains parts of a model on attacked examples and puts them back where they were cut out.

    HeteroFL-AT, FedRolex-AT and FedDrop-AT of the FedProphet paper, by their choice of units. There
    a copy's memory is a formula of its width; here it is the backend's own footprint. HeteroFL's
    scaling of activations by the width is left out: batch normalisation takes it out again.

    Attributes:
        widths: Of all arrays.
        counts: Units that each model has, by their group, the whole model first.
        choice: Which units a narrow copy has.
    """

    widths: Widths = field(default_factory=lambda: Widths({}))
    counts: tuple[Mapping[str, int], ...] = ()
    choice: Choice = "rolling"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.counts) != len(self.costs):
            raise ConfigError(f"want counts of {len(self.costs)} models, got {len(self.counts)}")
        if self.choice not in CHOICES:
            raise ConfigError(f"choice must be one of {CHOICES}, got {self.choice!r}")

    def initialize(self, parameters: Parameters) -> ServerState:
        """Return the whole model's parameters.

        Raises:
            ConfigError: They do not have the units that the whole model should have.
        """
        if self.widths.counts(parameters) != self.counts[0]:
            raise ConfigError(f"want {dict(self.counts[0])}, got {self.widths.counts(parameters)}")
        return ServerState(parameters)

    def returned(self, state: ServerState, task: ClientTask) -> Parameters:
        """Return what a device's copy begins with."""
        counts = self.counts[member_of(task, len(self.counts))]
        return cut_out(
            state.parameters, self.widths, self._units(counts, task.round, task.device_id)
        )

    def aggregate(self, state: ServerState, updates: Sequence[ClientUpdate]) -> ServerState:
        """Return each number's mean over the copies that have it."""

        def units_of(update: ClientUpdate) -> Units:
            counts = self.widths.counts(update.parameters)
            return self._units(counts, update.round, update.device_id)

        return ServerState(mean_of_copies(state.parameters, updates, self.widths, units_of))

    def _units(self, counts: Mapping[str, int], round_number: int, device_id: str) -> Units:
        return choose_units(
            self.choice,
            counts,
            self.counts[0],
            round_number=round_number,
            device_id=device_id,
            seed=self.seed,
        )

    def _config(self, round_number: int, member: int, budget_bytes: int) -> dict[str, Setting]:
        config = super()._config(round_number, member, budget_bytes)
        return {**config, _CHOICE: self.choice, _SEED: self.seed}


@dataclass
class PartialClient:
    """A client of any device, as ``PartialTraining`` wants it.

    Attributes:
        make_members: Makes a client of each model, the whole model's first, when it is wanted.
        widths: Of all arrays.
        counts: Units that each model has.
    """

    make_members: Sequence[Callable[[], Client]]
    widths: Widths
    counts: tuple[Mapping[str, int], ...]
    _members: dict[int, Client] = field(default_factory=dict)

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Cut a copy out of a model and train it.

        Raises:
            UpdateError: The task is for another model.
        """
        member = member_of(task, len(self.make_members))
        if member not in self._members:
            self._members[member] = self.make_members[member]()
        units = choose_units(
            task.config[_CHOICE],  # type: ignore[arg-type]
            self.counts[member],
            self.counts[0],
            round_number=task.round,
            device_id=task.device_id,
            seed=int(task.config[_SEED]),
        )
        return self._members[member].run(task, cut_out(parameters, self.widths, units))
