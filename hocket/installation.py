"""Which parts of Hocket this installation can run: packages and bounds by its own metadata."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Version = Callable[[str], str | None]

PARTS = {
    "": "compiling and running models",
    "plot": "pictures and reports",
    "exact": "proofs that a tiling is the best",
    "export": "libraries for boards",
    "fl": "federations",
    "data": "data sets of federations",
    "ray": "federations on Ray",
    "flower": "federations on Flower",
    "photon": "language models from scratch",
    "privacy": "secret sums and noise",
    "robustness": "attacks of other libraries",
    "service": "services: venn serve, store serve",
    "store": "every update of every round",
    "tensorboard": "curves in TensorBoard",
}
"""What each extra is for; the first is what is always installed."""

_PACKAGES = {"Crypto": "pycryptodome", "sklearn": "scikit-learn"}
"""Packages by what is imported, where the names differ."""

NVIDIA_DEVICE = Path("/dev/nvidiactl")


class MissingPackageError(ImportError):
    """Packages are not installed that what was asked for takes; it says how to install them."""


@dataclass(frozen=True)
class Part:
    """A part of Hocket, by the extra that installs it.

    Attributes:
        extra: Its name; empty for what is always installed.
        purpose: What it is for.
        missing: Packages that are not installed.
        unfit: Packages that are, in a version that Hocket was not made for, with what it wants.
    """

    extra: str
    purpose: str
    missing: tuple[str, ...]
    unfit: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        """Whether it can be used."""
        return not self.missing and not self.unfit

    @property
    def mend(self) -> str:
        """The command that installs what it lacks."""
        return mend_of(self.extra)


def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_parts(
    requirements: Iterable[str] | None = None, version_of: Version = installed_version
) -> tuple[Part, ...]:
    """Return all parts with what they lack.

    Args:
        requirements: As package metadata have them; Hocket's own by default.
        version_of: Says what is installed.
    """
    if requirements is None:
        requirements = importlib.metadata.requires("hocket") or ()
    wanted = [Requirement(text) for text in requirements]
    return tuple(_part(extra, purpose, wanted, version_of) for extra, purpose in PARTS.items())


def missing_package(
    error: ModuleNotFoundError,
    asked: str,
    extras: Iterable[str] = (),
    parts: Iterable[Part] | None = None,
) -> MissingPackageError | None:
    """Return what is to be said of a package that could not be imported.

    Args:
        error: What Python said of it.
        asked: What was asked for, such as ``hocket federate``.
        extras: Those that this is known to take.
        parts: As ``find_parts`` returns them; those of this installation by default.

    Returns:
        None if it is no package of Hocket's, or one that is installed: then the error is a bug.
    """
    module = (error.name or "").partition(".")[0]
    package = canonicalize_name(_PACKAGES.get(module, module))
    lacking = [part for part in (find_parts() if parts is None else parts) if part.missing]
    having = [
        part for part in lacking if package in {canonicalize_name(name) for name in part.missing}
    ]
    if not having:
        return None
    # Those known at once, so that nobody installs one only to be told of the next.
    wanted = [part for part in lacking if part.extra in extras]
    if not any(part in wanted for part in having):
        wanted = having[:1]
    names = tuple(dict.fromkeys(name for part in wanted for name in part.missing))
    extra = ",".join(part.extra for part in wanted)
    return MissingPackageError(
        f"{asked} takes {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not "
        f"installed: {mend_of(extra)}",
        name=error.name,
    )


def mend_of(extra: str) -> str:
    """Return the command that installs an extra, or several with commas; without any, Hocket."""
    return f"pip install 'hocket[{extra}]'" if extra else "pip install hocket"


def _part(extra: str, purpose: str, wanted: Iterable[Requirement], version_of: Version) -> Part:
    missing, unfit = [], []
    for each in wanted:
        if not _is_of(each, extra):
            continue
        found = version_of(each.name)
        if found is None:
            missing.append(each.name)
        elif not each.specifier.contains(found, prereleases=True):
            unfit.append(f"{each.name} {found} (want {each.specifier})")
    return Part(extra, purpose, tuple(dict.fromkeys(missing)), tuple(dict.fromkeys(unfit)))


def _is_of(requirement: Requirement, extra: str) -> bool:
    """Whether a package is wanted for an extra and not anyway; with no extra, whether anyway."""
    marker = requirement.marker
    is_wanted_anyway = marker is None or marker.evaluate({"extra": ""})
    if not extra or is_wanted_anyway or marker is None:
        return is_wanted_anyway and not extra
    return marker.evaluate({"extra": extra})


def torch_advice(version: str | None, nvidia_device: Path = NVIDIA_DEVICE) -> str:
    """Return what is to be said of torch's build on this machine; empty if nothing is.

    Args:
        version: Of torch, such as ``2.13.0+cpu``; None if it is not installed.
        nvidia_device: A file that is there where there is a GPU.
    """
    build = (version or "").partition("+")[2]
    if build.startswith("cu") and not nvidia_device.exists():
        return (
            f"torch {version} is built for NVIDIA GPUs, and there is none: it works, and takes "
            "gigabytes for nothing; the build for CPUs is in torch's own package index"
        )
    if build == "cpu" and nvidia_device.exists():
        return f"torch {version} is built for CPUs, and cannot use the GPU that is here"
    return ""


def data_advice() -> list[str]:
    """Return what cannot be had here of the data that examples and benches train on."""
    from hocket.fl.data.sources import fashion_mnist_folder

    found = []
    if fashion_mnist_folder() is None:
        found.append(
            "Fashion-MNIST is not here: `apt-get install dataset-fashion-mnist`, or `make data` "
            "without root"
        )
    lacking = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if lacking:
        found.append(
            f"no {' and no '.join(lacking)}: `hocket photon data` cannot get text from Debian's "
            "packages; make shards of your own with `hocket.fl.photon.shards.write_shards`"
        )
    return found
