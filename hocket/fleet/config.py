"""The file of a fleet: who its devices are, who shares them out, and the jobs that want them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from hocket.fl.config import DeviceClass  # noqa: TC001 - pydantic reads annotations
from hocket.fl.core.sections import Section, Size, parse_bytes, read_toml, validated

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_SHARE_TOLERANCE = 1e-6


class FleetSection(Section):
    """Who shares devices, and where results go.

    Attributes:
        folder: Of all results; from the file's own folder.
        policy: One of ``hocket venn simulate``'s.
        seed: Of what the policy draws, and of tasks that are dropped.
        dataflow: By which each class's machine runs attention; ``auto`` for the best there is.
    """

    folder: str = "runs/fleet"
    policy: str = "venn"
    seed: int = Field(default=0, ge=0)
    dataflow: str = "auto"


class EngineSection(Section):
    """Where devices' work is really done.

    Attributes:
        name: Of the engine.
        workers: Processes at once; 0 for this process alone with the local engine, and as many as
            there are cores with the others.
    """

    name: Literal["local", "ray", "flower"] = "local"
    workers: int = Field(default=0, ge=0)


class PopulationSection(Section):
    """The devices.

    Attributes:
        devices: There are; each has data of every job.
        seed: Of when they are there, and of who is of which class.
    """

    devices: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)


class StoreSection(Section):
    """Where updates are kept, and asked about.

    Attributes:
        memory: In which they are held, a number of bytes or as in ``"64MB"``.
        instances: Processes that answer.
    """

    memory: Size = "256MB"
    instances: int = Field(default=1, ge=1)

    @property
    def memory_bytes(self) -> int:
        """The memory, in bytes."""
        return parse_bytes(self.memory)


class JobSection(Section):
    """A job, and what it asks of devices.

    Attributes:
        name: Of the job, in place of the one that its file gives.
        federation: The file of a federation, as ``hocket federate`` and ``hocket prophet`` take
            it; or
        photon: that of a run of ``hocket photon``.
        texts: Of a run of Photon: patterns of files, whose bytes are its text; none where its data
            are shards that are there already. All files are looked for from this file's folder.
        settings: Values by ``section.key`` that take the place of the job file's.
        arrival_seconds: When it comes.
        devices: That a round wants.
        quorum: Part of them that must answer.
        selection_seconds: That a round waits for devices; 0 for as long as it takes.
        deadline_seconds: For answers, once a round has its devices; 0 for as long as it takes.
        within_seconds: In which a device must be able to compute its task; 0 for any time.
    """

    name: str = Field(default="", pattern=rf"^$|{_NAME}")
    federation: str = ""
    photon: str = ""
    texts: tuple[str, ...] = Field(default=(), strict=False)
    settings: dict[str, Any] = Field(default_factory=dict)
    arrival_seconds: float = Field(default=0.0, ge=0)
    devices: int = Field(default=8, ge=1)
    quorum: float = Field(default=0.8, gt=0, le=1)
    selection_seconds: float = Field(default=0.0, ge=0)
    deadline_seconds: float = Field(default=0.0, ge=0)
    within_seconds: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _is_one(self) -> JobSection:
        if bool(self.federation) == bool(self.photon):
            raise ValueError("want one of federation and photon")
        if self.texts and not self.photon:
            raise ValueError("texts are for photon; a federation names its data in its own file")
        return self


class RequestSection(Section):
    """A question that is asked of the store again and again.

    Attributes:
        workload: As ``hocket store run`` has it.
        job: Whose updates it is about.
        every: Rounds of the job from one time to the next.
        is_about_device: Whether it is about one device, the first that answered.
        options: Of the workload.
    """

    workload: str
    job: str
    every: int = Field(default=1, ge=1)
    is_about_device: bool = False
    options: dict[str, int | float | str | bool] = Field(default_factory=dict)


class FleetConfig(Section):
    """A whole file."""

    fleet: FleetSection = FleetSection()
    engine: EngineSection = EngineSection()
    population: PopulationSection = PopulationSection()
    classes: tuple[DeviceClass, ...] = Field(strict=False, min_length=1)
    store: StoreSection = StoreSection()
    jobs: tuple[JobSection, ...] = Field(strict=False, min_length=1)
    requests: tuple[RequestSection, ...] = Field(default=(), strict=False)
    _origin: str = PrivateAttr(default="configuration")
    _home: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _is_consistent(self) -> FleetConfig:
        names = [each.name for each in self.classes]
        if len(set(names)) < len(names):
            raise ValueError(f"classes: two have one name, of {names}")
        if abs(sum(each.share for each in self.classes) - 1) > _SHARE_TOLERANCE:
            raise ValueError("classes: their shares are not 1 together")
        for job in self.jobs:
            if job.devices > self.population.devices:
                raise ValueError(
                    f"jobs: one wants {job.devices} devices of {self.population.devices}"
                )
        return self

    @property
    def origin(self) -> str:
        """The file, as messages name it."""
        return self._origin

    @property
    def home(self) -> Path:
        """The folder of the file, from which others are looked for."""
        return self._home

    @property
    def folder(self) -> Path:
        """Where results go."""
        return (self._home / self.fleet.folder).resolve()

    def essence(self) -> dict[str, Any]:
        """Return all that changes what comes out, as values of JSON: not where, nor the store."""
        return self.model_dump(
            mode="json", exclude={"engine": True, "store": True, "fleet": {"folder"}}
        )


def load_fleet_config(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> FleetConfig:
    """Read a fleet's file.

    Args:
        path: The file.
        overrides: Values that take the place of the file's, by ``section.key``.

    Raises:
        ConfigError: Names the file, the key and what is wrong with it.
    """
    path = Path(path)
    config = validated(FleetConfig, read_toml(path, overrides), str(path))
    config._origin, config._home = str(path), path.resolve().parent
    return config
