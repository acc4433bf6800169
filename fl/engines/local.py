"""Clients in this process, or in a pool of processes on this machine."""

from __future__ import annotations

import signal
import sys
import tempfile
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pebble import ProcessExpired, ProcessPool

from hocket.fl.core.client import run_safely
from hocket.fl.core.engine import failure, lateness, named_devices
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import decode_arrays, encode_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from hocket.fl.core.client import Client, ClientFactory
    from hocket.fl.core.clock import Clock
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Device, Reply

# Of a worker process: how to make its client, that client, and the parameters of the round with the
# file they came from.
_make_client: ClientFactory | None = None
_client: Client | None = None
_round: tuple[str, Parameters] = ("", {})


class InProcessEngine:
    """Runs one client after the other in this process. It needs no memory but one client's.

    A task that runs cannot be stopped: one that is done too late counts as late, and so do those
    that have not begun.

    Args:
        make_client: Called once, with the first task.
        clock: To tell who is late.
        attributes: Of each device, by its name; devices not named have none.
    """

    def __init__(
        self,
        make_client: ClientFactory,
        clock: Clock,
        attributes: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._make_client = make_client
        self._clock = clock
        self._devices = named_devices(make_client, attributes)
        self._client: Client | None = None

    def devices(self) -> list[Device]:
        """Return all devices."""
        return list(self._devices)

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, in their order."""
        started = self._clock.now()
        for task in tasks:
            reply: Reply = lateness(task)
            if not _is_over(self._clock, started, timeout_seconds):
                if self._client is None:
                    self._client = self._make_client()
                found = run_safely(self._client, task, parameters)
                reply = reply if _is_over(self._clock, started, timeout_seconds) else found
            yield reply

    def close(self) -> None:
        """Forget the client."""
        self._client = None


class ProcessEngine:
    """Runs clients in worker processes, each of which has one client for all its tasks.

    A worker that dies takes only its task with it; another takes its place. Parameters of a round
    lie in one file that all workers read.

    Args:
        make_client: Called once in each worker.
        num_workers: Processes.
        clock: To tell who is late.
        attributes: Of each device, by its name; devices not named have none.

    Raises:
        ConfigError: There are to be no workers.
    """

    def __init__(
        self,
        make_client: ClientFactory,
        num_workers: int,
        clock: Clock,
        attributes: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        if num_workers < 1:
            raise ConfigError(f"num_workers must be 1 or more, got {num_workers}")
        self._clock = clock
        self._devices = named_devices(make_client, attributes)
        self._folder = tempfile.TemporaryDirectory(prefix="hocket-rounds-")
        self._pool = ProcessPool(
            num_workers,
            initializer=_start_worker,
            initargs=(make_client,),
            # A fork would share the threads' locks of torch and onnxruntime, but not their threads.
            context=get_context("spawn"),
        )
        self._num_files = 0

    def devices(self) -> list[Device]:
        """Return all devices."""
        return list(self._devices)

    def run(
        self,
        tasks: Sequence[ClientTask],
        parameters: Parameters,
        timeout_seconds: float | None = None,
    ) -> Iterator[Reply]:
        """Yield one reply for each task, as they come."""
        self._num_files += 1
        path = Path(self._folder.name) / f"{self._num_files}.safetensors"
        path.write_bytes(encode_arrays(parameters))
        with _interrupts_held():
            tasks_of: dict[Future[Any], ClientTask] = {
                self._pool.schedule(_run_in_worker, args=[task, str(path)]): task for task in tasks
            }
        started, waiting = self._clock.now(), set(tasks_of)
        try:
            while waiting:
                left = None
                if timeout_seconds is not None:
                    left = max(0.0, started + timeout_seconds - self._clock.now())
                done, waiting = wait(waiting, timeout=left, return_when=FIRST_COMPLETED)
                if not done:
                    break
                for future in done:
                    yield _reply_of(future, tasks_of[future])
            for future in waiting:
                yield lateness(tasks_of[future])
        finally:
            for future in waiting:
                future.cancel()  # stops a worker that is at it; a new one takes its place
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop the workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
        self._folder.cleanup()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let threads, and processes that they start, have nothing to do with Ctrl-C.

    A terminal sends it to all of them. The pool stops its workers itself; one that is still
    importing would show where it was.
    """
    if sys.platform == "win32":
        yield
        return
    # The first process to be spawned starts this, which lets interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_over(clock: Clock, started: float, timeout_seconds: float | None) -> bool:
    return timeout_seconds is not None and clock.now() - started > timeout_seconds


def _reply_of(future: Future[Any], task: ClientTask) -> Reply:
    try:
        reply: Reply = future.result()
    except ProcessExpired as error:
        return failure(task, f"its process ended with code {error.exitcode}")
    except Exception as error:  # noqa: BLE001 - of making the client, or of sending the reply
        return failure(task, error)
    return reply


def _start_worker(make_client: ClientFactory) -> None:
    # Made with the first task: an error here would end the worker, and with it a pool of them.
    global _make_client  # noqa: PLW0603 - a worker process has one client
    _make_client = make_client


def _run_in_worker(task: ClientTask, path: str) -> Reply:
    global _client, _round  # noqa: PLW0603 - a worker process has one client
    if _make_client is None:
        raise RuntimeError("the worker was not started")
    if _client is None:
        _client = _make_client()
    if _round[0] != path:
        _round = (path, decode_arrays(Path(path).read_bytes(), path))
    return run_safely(_client, task, _round[1])
