"""What a job's training asks of a device: "can train this model within M bytes and T seconds".

Requests ask for least values of attributes. Bytes are the same on all machines; seconds are a
machine's own. So a job asks for its footprint in ``memory_bytes`` and for no less than no spare
seconds, and a device says how many seconds it has to spare for each job that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.hwmodels.loader import load_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hocket.fl.core.backend import Backend, LocalTraining
    from hocket.hwmodels.machine import HardwareModel


@dataclass(frozen=True, eq=False)
class TrainingNeed:
    """What a job trains, and in which time a device should have done its share.

    Attributes:
        job: Its name.
        backend: Its model; it can say what training takes.
        training: How it is trained.
        num_steps: That a device takes in a round.
        within_seconds: In which it should be done with them.

    Raises:
        ConfigError: There are no steps, or there is no time for them.
    """

    job: str
    backend: Backend
    training: LocalTraining
    num_steps: int
    within_seconds: float

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not self.within_seconds > 0:
            raise ConfigError(
                f"job {self.job!r}: want 1 or more steps and a time above 0, got "
                f"{self.num_steps} steps in {self.within_seconds} s"
            )

    def spare_seconds(self, machine: HardwareModel) -> float:
        """Return what is left of the time when a machine has done the steps; below 0 if none is.

        Raises:
            CapabilityError: The backend cannot say what training takes.
        """
        footprint = self.backend.footprint(machine, self.training)
        return self.within_seconds - self.num_steps * footprint.step_seconds


def minimum_of(need: TrainingNeed, machine: str = "host") -> dict[str, float]:
    """Return what a job's requests ask for.

    Args:
        need: Of the job.
        machine: Any; what training takes in bytes is the same on all.

    Raises:
        CapabilityError: The backend cannot say what training takes.
    """
    footprint = need.backend.footprint(load_target(machine), need.training)
    return {"memory_bytes": float(footprint.peak_bytes), attribute_of(need.job): 0.0}


def attributes_of(
    machine: HardwareModel, memory_bytes: int, needs: Iterable[TrainingNeed]
) -> Mapping[str, float]:
    """Return what a device says of itself.

    Args:
        machine: What it is.
        memory_bytes: That training may take on it.
        needs: Of the jobs it knows; it takes part in no other that asks for spare seconds.

    Raises:
        CapabilityError: A backend cannot say what training takes.
    """
    spare = {attribute_of(need.job): need.spare_seconds(machine) for need in needs}
    return {"memory_bytes": float(memory_bytes), **spare}


def attribute_of(job: str) -> str:
    """Return the name of the attribute that says how many seconds a device can spare for a job."""
    return f"spare_seconds.{job}"
