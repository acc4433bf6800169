"""Where the clients of a run of Photon live, by the name that its file gives."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import decode_report
from hocket.fl.core.errors import ConfigError, FederationError
from hocket.fl.photon.config import LOOPBACK, METRICS, PhotonConfig
from hocket.installation import mend_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from hocket.fl.core.engine import Engine
    from hocket.fl.core.observers import Observer
    from hocket.fl.core.types import Setting
    from hocket.photon_parts import PhotonClients


_POLL_SECONDS = 0.2


def make_engine(config: PhotonConfig, clients: PhotonClients) -> Engine:
    """Return the engine that a file names, all on this machine.

    Raises:
        ConfigError: It cannot be had here.
    """
    name, workers = config.engine.name, config.engine.workers
    attributes = clients.attributes()
    if name == "local" and not workers:
        from hocket.fl.engines.local import InProcessEngine

        return InProcessEngine(clients, WallClock(), attributes)
    if not workers:
        raise ConfigError(f"engine: {name} wants 1 or more workers")
    if name == "local":
        from hocket.fl.engines.local import ProcessEngine

        return ProcessEngine(clients, workers, WallClock(), attributes)
    with _needing(name):
        if name == "ray":
            from hocket.fl.engines.ray import RayEngine

            return RayEngine(clients, workers, WallClock(), attributes)
        from hocket.fl.engines.flower.simulation import FlowerSimulation
    return FlowerSimulation(clients, workers, WallClock(), attributes)


def run_deployed(
    config: PhotonConfig,
    observers: Sequence[Observer] = (),
    *,
    resume: bool = False,
    client: str = "hocket.photon_app:client",
) -> None:
    """Run a file on Flower's SuperLink, or on one of this machine's own; results are in the folder.

    Args:
        config: What the file holds; its module has been compiled.
        observers: Told of rounds that are over; of tasks and replies they hear nothing, as the
            server is another process.
        resume: Whether to go on after the last round that is over, if one is.
        client: The ClientApp.

    Raises:
        ConfigError: Flower is not installed, or the address is none.
        FederationError: The run did not complete; the message ends with the server's log.
    """
    with _needing("flower"):
        from hocket.fl.engines.flower.certificates import make_certificates
        from hocket.fl.engines.flower.deployment import DeployedApp, deploy, run_app
    engine = config.engine
    if engine.name != "flower":
        raise ConfigError(f"engine: an address is for flower, and this is {engine.name}")
    num_nodes = engine.workers or 1
    app = DeployedApp(
        "hocket.photon_app:server", client, settings_of(config, num_nodes, resume=resume)
    )
    follower = _Follower(Path(config.run.folder) / METRICS, observers)
    with contextlib.ExitStack() as stack:
        address = engine.address
        authority = Path(engine.certificate) if engine.certificate else None
        if address == LOOPBACK:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hocket-tls-"))
            certificates = make_certificates(folder)
            authority = certificates.authority
            address = stack.enter_context(deploy(num_nodes, certificates))
        run_app(app, address, follower, authority)
    follower("")


def run_peers(
    config: PhotonConfig, observers: Sequence[Observer] = (), *, resume: bool = False
) -> None:
    """Run a file without a server, with a process here for each client; results are in its folder.

    Args:
        config: What the file holds; its module has been compiled.
        observers: Told of rounds that are over.
        resume: Whether to go on after the last round that all peers have, if there is one.

    Raises:
        FederationError: A peer was lost; the others were stopped.
    """
    follower = _Follower(Path(config.run.folder) / METRICS, observers)
    with tempfile.TemporaryDirectory(prefix="hocket-peers-") as name:
        folder = Path(name)
        file = folder / "config.json"
        file.write_text(_to_json(config), encoding="utf-8")
        told = [str(file), f"file://{folder / 'meeting'}", str(int(resume))]
        peers = [
            subprocess.Popen(  # noqa: S603 - this Python, with this package
                [sys.executable, "-m", "hocket.photon_peers", told[0], str(rank), *told[1:]],
                stdin=subprocess.DEVNULL,
            )
            for rank in range(config.data.clients)
        ]
        try:
            while not any(codes := [peer.poll() for peer in peers]) and None in codes:
                time.sleep(_POLL_SECONDS)
                follower("")
        finally:
            for peer in peers:
                peer.kill()
                peer.wait()
    if lost := [f"peer {rank} ended with code {code}" for rank, code in enumerate(codes) if code]:
        raise FederationError(f"{'; '.join(lost)}: all have been stopped; go on with --resume")
    follower("")


def settings_of(config: PhotonConfig, num_nodes: int, *, resume: bool) -> dict[str, Setting]:
    """Return what the apps of ``hocket.photon_app`` have to be told.

    Args:
        config: What the file holds.
        num_nodes: SuperNodes that the server waits for.
        resume: Whether the server goes on after the last round that is over.
    """
    return {"config": _to_json(config), "num-nodes": num_nodes, "resume": resume}


def config_of(settings: Mapping[str, Any]) -> PhotonConfig:
    """Return the configuration that ``settings_of`` has put there."""
    return PhotonConfig.model_validate_json(str(settings["config"]))


def _to_json(config: PhotonConfig) -> str:
    return config.model_dump_json(by_alias=True, exclude_none=True)


class _Follower:
    """Tells observers what the server of another process writes of its rounds.

    What is in the file when this is made is of an earlier run, or told already. A round that is
    done anew has another line, as it has taken other seconds.
    """

    def __init__(self, path: Path, observers: Sequence[Observer]) -> None:
        self._path = path
        self._observers = observers
        self._known = set(self._whole_lines())

    def __call__(self, line: str) -> None:
        """Look for rounds that have ended, whatever the server has said."""
        del line
        for text in self._whole_lines():
            if text not in self._known:
                self._known.add(text)
                for observer in self._observers:
                    observer.finished(decode_report(text.encode()))

    def _whole_lines(self) -> list[str]:
        if not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8")
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def check_packages(config: PhotonConfig) -> None:
    """Check that a file's secret sums and noise can be had here.

    Raises:
        ConfigError: A package is not installed.
    """
    if config.secure is None and config.privacy is None:
        return
    for name in ("cryptography", "Crypto", "opacus"):
        if find_spec(name) is None:
            raise ConfigError(
                f"secret sums and noise take {name}, which is not installed: {mend_of('privacy')}"
            )


@contextlib.contextmanager
def _needing(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{error}; {mend_of(extra)}") from error
