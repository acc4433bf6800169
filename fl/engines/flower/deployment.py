"""A real deployment of Flower: apps run on a SuperLink, one of this machine's own if need be."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError, FederationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from hocket.fl.core.types import Setting
    from hocket.fl.engines.flower.certificates import Certificates

_logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_LOCAL_HOSTS = (_LOOPBACK, "localhost", "[::1]")
_START_SECONDS, _STOP_SECONDS, _POLL_SECONDS = 120.0, 10.0, 0.1
_NUM_LOG_LINES = 30
_REFERENCE = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")
_STARTED = re.compile(r"Successfully started run (\d+)")
_COMPLETED = "finished:completed"

# Flower stays off the network, and looks for tasks ten times a second instead of once.
_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "PYTHONUNBUFFERED": "1",
}

_PROJECT = """\
[project]
name = "federation"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "hocket"

[tool.flwr.app.components]
serverapp = "federation_apps:server"
clientapp = "federation_apps:client"

[tool.flwr.app.config]
"""


@dataclass(frozen=True)
class DeployedApp:
    """Apps that all machines of a deployment have installed.

    Attributes:
        server, client: The ServerApp and the ClientApp, as ``package.module:name``.
        settings: What they find in the ``run_config`` of their context.

    Raises:
        ConfigError: One is not named like this.
    """

    server: str
    client: str
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for reference in (self.server, self.client):
            if not _REFERENCE.fullmatch(reference):
                raise ConfigError(f"want an app as package.module:name, got {reference!r}")


@contextmanager
def deploy(num_nodes: int, certificates: Certificates | None = None) -> Iterator[str]:
    """Run a SuperLink and SuperNodes on this machine, and yield the SuperLink's address.

    They listen on the loopback device alone, and are stopped on the way out, whatever happens; only
    killing this process with no time to do it leaves them.

    Args:
        num_nodes: SuperNodes.
        certificates: Of the SuperLink, for TLS; without, nothing is encrypted.

    Raises:
        ConfigError: There are to be no nodes, or Flower is not installed.
        FederationError: The SuperLink did not start; the message ends with its log.
    """
    if num_nodes < 1:
        raise ConfigError(f"num_nodes must be 1 or more, got {num_nodes}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hocket-flower-")))
        environment = _environment(folder)
        ports = _free_ports(1 + num_nodes)
        address = f"{_LOOPBACK}:{ports[0]}"
        log = folder / "superlink.log"
        # Otherwise it would install the app's dependencies from the network.
        link = ["flower-superlink", "--disable-runtime-dependency-installation"]
        trusting = ["--insecure"]
        if certificates is None:
            link.append("--insecure")
        else:
            trusting = ["--root-certificates", str(certificates.authority)]
            link += ["--ssl-ca-certfile", str(certificates.authority)]
            link += ["--ssl-certfile", str(certificates.certificate)]
            link += ["--ssl-keyfile", str(certificates.key)]
        process = stack.enter_context(_running(link, ports[0], environment, log))
        for number, port in enumerate(ports[1:]):
            node = [
                *("flower-supernode", "--superlink", address),
                *("--node-config", f"partition-id={number} num-partitions={num_nodes}"),
                *trusting,
            ]
            stack.enter_context(_running(node, port, environment, folder / f"{number}.log"))
        _wait_for(process, ports[0], log)
        yield address


def run_app(
    app: DeployedApp,
    address: str,
    echo: Callable[[str], None] = _logger.info,
    authority: Path | None = None,
) -> None:
    """Run apps on a SuperLink, and wait for their end.

    Args:
        app: To run.
        address: Of the SuperLink, ``HOST:PORT``; with TLS unless it is on this machine.
        echo: Called with each line of the ServerApp's log.
        authority: Certificate by which the SuperLink's is known; None for no TLS on this machine,
            and for the authorities that this machine trusts elsewhere.

    Raises:
        FederationError: It did not start or did not complete; the message ends with its log.
    """
    with tempfile.TemporaryDirectory(prefix="hocket-flower-") as name:
        folder = Path(name)
        _write_project(app, folder / "app")
        _write_connection(address, folder, authority)
        environment = _environment(folder)
        lines: deque[str] = deque(maxlen=_NUM_LOG_LINES)
        run_id = ""
        command = [_script("flwr"), "run", str(folder / "app"), "here", "--stream"]
        try:
            with closing(_lines_of(command, environment)) as said:
                for line in said:
                    lines.append(line)
                    echo(line)
                    if not run_id and (started := _STARTED.search(line)):
                        run_id = started[1]
            status, details = _status_of(run_id, environment) if run_id else ("never started", "")
        except BaseException:
            if run_id:
                _call(["stop", run_id, "here"], environment)
            raise
    if status != _COMPLETED:
        log = "\n".join(lines)
        raise FederationError(f"Flower's run on {address} is {status} ({details}):\n{log}")


def _environment(home: Path) -> dict[str, str]:
    # SuperLink and SuperNodes look for Flower's other commands there.
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    return {**os.environ, **_SETTINGS, "PATH": path, "FLWR_HOME": str(home)}


def _script(name: str) -> str:
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        raise ConfigError(f"there is no {path}; pip install 'hocket[flower]'")
    return str(path)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server((_LOOPBACK, 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in found]


@contextmanager
def _running(
    command: Sequence[str], port: int, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's servers, in a group with the processes that it starts."""
    place = ("--host", _LOOPBACK, "--port", str(port))
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - Flower's own command
            [_script(command[0]), *command[1:], *place],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        _logger.warning("%s had to be killed", process.args)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # all of it has ended


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < _START_SECONDS and process.poll() is None:
        try:
            socket.create_connection((_LOOPBACK, port), timeout=_POLL_SECONDS).close()
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return
    said = "\n".join(log.read_text("utf-8", "replace").splitlines()[-_NUM_LOG_LINES:])
    raise FederationError(f"Flower's SuperLink did not start:\n{said}")


def _write_project(app: DeployedApp, folder: Path) -> None:
    """Write the bundle that Flower carries to its nodes: where to import the apps from."""
    folder.mkdir()
    settings = "".join(f"{name} = {_toml(value)}\n" for name, value in app.settings.items())
    (folder / "pyproject.toml").write_text(_PROJECT + settings, encoding="utf-8")
    imports = []
    for role, reference in (("client", app.client), ("server", app.server)):
        module, _, name = reference.partition(":")
        # Assigned, as Flower reads the file for the names without running it.
        imports.append(f"from {module} import {name} as _{role}\n\n{role} = _{role}\n")
    (folder / "federation_apps.py").write_text("".join(imports), encoding="utf-8")


def _write_connection(address: str, home: Path, authority: Path | None) -> None:
    host = address.rpartition(":")[0]
    if not host:
        raise ConfigError(f"engine.address: want HOST:PORT of a SuperLink, got {address!r}")
    lines = ['[superlink]\ndefault = "here"\n\n[superlink.here]', f"address = {_toml(address)}"]
    if authority is None:
        lines.append(f"insecure = {_toml(host in _LOCAL_HOSTS)}")
    else:
        lines.append(f"root-certificates = {_toml(str(authority.resolve()))}")
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: Setting) -> str:
    # Numbers, truth values and strings are in TOML what they are in JSON.
    return json.dumps(value, ensure_ascii=False)


def _lines_of(command: Sequence[str], environment: Mapping[str, str]) -> Generator[str, None, None]:
    with subprocess.Popen(  # noqa: S603 - Flower's own command
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            if process.stdout:
                for line in process.stdout:
                    yield re.sub(r"\x1b\[[0-9;]*m", "", line.rstrip())
        finally:
            if process.poll() is None:
                process.terminate()


def _status_of(run_id: str, environment: Mapping[str, str]) -> tuple[str, str]:
    said = _call(["list", "here", "--run-id", run_id, "--format", "json"], environment)
    try:
        run = json.loads(said)["runs"][0]
        return str(run["status"]), str(run["status-details"])
    except (ValueError, LookupError, TypeError):
        return "unknown", said


def _call(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603 - Flower's own command
        [_script("flwr"), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    return done.stdout + done.stderr
