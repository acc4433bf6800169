"""How many check-ins a second does the device scheduler's service answer, and how soon?

A real process on the loopback, asked by another. Every answer is on disk (fsync) before it is
given; every check-in is of a device that was not there before and gets a job. Then the parts alone:
the journal without HTTP, and the scheduler without a journal.

Columns: check-ins in one request; connections that each wait for an answer before they ask again;
answers a second; time from a request to its answer, median and 99th percentile; requests that are
written together, mean; processor time of what is measured, for each check-in, which leaves out what
else the machine does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import PACKAGES, Choices, parse_choices, report, stamp

from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.types import Device
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.service.client import ServiceClient
from hocket.fl.venn.service.journal import Journal
from hocket.fl.venn.service.manager import Caller
from hocket.fl.venn.service.operations import AskDevices, CheckIn, CheckIns, Register

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 10_000_000
"""Devices wanted: more than check in."""

BATCH = 1000

LOADS = ((1, 1), (1, 16), (1, 64), (1, 256), (100, 4), (1000, 2), (1000, 4))
"""Check-ins a request, and connections."""

COLUMNS = {
    "what": "",
    "check_ins_a_request": ",",
    "connections": "",
    "check_ins_per_second": ",.0f",
    "p50_ms": ".1f",
    "p99_ms": ".1f",
    "requests_a_write": ".1f",
    "cpu_us_a_check_in": ".1f",
}
GROUP, CPU = "hocket_venn_group_size", "process_cpu_seconds_total"
SERVICE_PACKAGES = ("httpx", "pydantic", "starlette", "uvicorn")

_NUMBERS = itertools.count()


class Process:
    """A service on a fresh database, with a job that wants every device."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "hocket", "venn", "serve", "--port", "0"]
        self._popen = subprocess.Popen(
            [*command, "--database", str(folder / "venn.db")], stdout=subprocess.PIPE, text=True
        )
        line = self._popen.stdout.readline() if self._popen.stdout else ""
        if not line:
            raise RuntimeError("the service did not start")
        self.url = line.split()[-1]
        client = ServiceClient(self.url)
        client.register("job")
        client.ask_devices(DeviceRequest("job", MANY))
        client.close()

    def metrics(self) -> dict[str, float]:
        """Return what the service says of itself, without what has labels."""
        with urllib.request.urlopen(f"{self.url}/metrics") as response:  # noqa: S310 - loopback
            lines = response.read().decode().splitlines()
        pairs = (line.split() for line in lines if line[0] != "#" and "{" not in line)
        return {name: float(value) for name, value in pairs}

    def stop(self) -> None:
        """End it in good order."""
        self._popen.send_signal(signal.SIGTERM)
        self._popen.wait()


def bodies(num_devices: int) -> Iterator[bytes]:
    """Yield check-ins of devices that were not there before."""
    while True:
        devices = [
            {"device": f"phone-{next(_NUMBERS)}", "attributes": {"memory": 4.0, "score": 7.5}}
            for _ in range(num_devices)
        ]
        yield json.dumps({"devices": devices}).encode()


async def load(url: str, num_devices: int, num_connections: int, seconds: float) -> list[float]:
    """Ask on so many connections, and return the seconds that each answer took."""
    host, _, port = url.removeprefix("http://").partition(":")
    found: list[float] = []
    end = time.perf_counter() + seconds

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        head = "POST /v1/check-ins HTTP/1.1\r\nHost: service\r\n"
        for count, body in enumerate(bodies(num_devices)):
            key = f"Idempotency-Key: {number}-{count}-{end}\r\n"
            request = f"{head}{key}Content-Length: {len(body)}\r\n\r\n".encode() + body
            started = time.perf_counter()
            if started >= end:
                break
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode())
            length = re.search(rb"content-length: (\d+)", answer)
            content = await reader.readexactly(int(length[1]))  # type: ignore[index]
            found.append(time.perf_counter() - started)
            if b"null" in content:
                raise RuntimeError("a device got no job")
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*map(connection, range(num_connections)))
    return found


def measure_http(num_devices: int, num_connections: int, seconds: float) -> dict[str, Any]:
    """Return a row of a fresh service under load."""
    with tempfile.TemporaryDirectory() as folder:
        process = Process(Path(folder))
        try:
            asyncio.run(load(process.url, num_devices, num_connections, min(seconds, 0.5)))
            before, started = process.metrics(), time.perf_counter()
            found = asyncio.run(load(process.url, num_devices, num_connections, seconds))
            elapsed, after = time.perf_counter() - started, process.metrics()
        finally:
            process.stop()
    group, writes, cpu = (
        after[name] - before[name] for name in (f"{GROUP}_sum", f"{GROUP}_count", CPU)
    )
    return {
        "what": "service over HTTP",
        "check_ins_a_request": num_devices,
        "connections": num_connections,
        "check_ins_per_second": len(found) * num_devices / elapsed,
        "p50_ms": 1e3 * float(np.quantile(found, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(found, 0.99)),
        "requests_a_write": group / writes,
        "cpu_us_a_check_in": 1e6 * cpu / (len(found) * num_devices),
    }


def measure_client(seconds: float) -> dict[str, Any]:
    """Return a row of our own client, which reads every answer."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        process = Process(Path(folder))
        try:
            client = ServiceClient(process.url)
            before, end = process.metrics(), time.perf_counter() + seconds
            while (started := time.perf_counter()) < end:
                if None in client.check_in(_devices()):
                    raise RuntimeError("a device got no job")
                found.append(time.perf_counter() - started)
            client.close()
            cpu = process.metrics()[CPU] - before[CPU]
        finally:
            process.stop()
    return _row("our client", found, cpu)


def measure_journal(num_requests: int) -> dict[str, Any]:
    """Return a row of the journal alone: decided and on disk, a write a request."""
    found, cpu = [], 0.0
    me = Caller("me")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "venn.db", POLICIES["venn"])
        journal.perform(0.0, me, Register(job="job"))
        journal.perform(0.0, me, AskDevices(job="job", count=MANY))
        journal.perform(0.0, me, CheckIns(devices=(CheckIn(device="first"),)))
        for _ in range(num_requests):
            operation = CheckIns(
                devices=tuple(
                    CheckIn(device=each.device_id, attributes=dict(each.attributes))
                    for each in _devices()
                )
            )
            started, begun = time.perf_counter(), time.process_time()
            journal.perform(1.0, me, operation)
            journal.commit()
            found.append(time.perf_counter() - started)
            cpu += time.process_time() - begun
        journal.close()
    return _row("journal, no HTTP", found, cpu)


def measure_scheduler(num_requests: int) -> dict[str, Any]:
    """Return a row of the scheduler alone."""
    found, cpu = [], 0.0
    scheduler = VennScheduler()
    scheduler.submit(DeviceRequest("job", MANY))
    scheduler.offer(Device("first"))
    for _ in range(num_requests):
        devices = _devices()
        started, begun = time.perf_counter(), time.process_time()
        for device in devices:
            scheduler.offer(device)
        found.append(time.perf_counter() - started)
        cpu += time.process_time() - begun
    return _row("scheduler, no journal", found, cpu)


def _devices() -> list[Device]:
    numbers = itertools.islice(_NUMBERS, BATCH)
    return [Device(f"phone-{number}", {"memory": 4.0, "score": 7.5}) for number in numbers]


def _row(what: str, found: list[float], cpu: float) -> dict[str, Any]:
    return {
        "what": what,
        "check_ins_a_request": BATCH,
        "connections": 1,
        "check_ins_per_second": len(found) * BATCH / sum(found),
        "p50_ms": 1e3 * float(np.quantile(found, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(found, 0.99)),
        "requests_a_write": 1.0,
        "cpu_us_a_check_in": 1e6 * cpu / (len(found) * BATCH),
    }


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return the rows."""
    seconds, num_requests = (0.3, 5) if choices.quick else (5.0, 200)
    loads = ((100, 4),) if choices.quick else LOADS
    rows = [measure_http(BATCH, count, seconds) for BATCH, count in loads]
    if not choices.quick:
        rows.append(measure_client(seconds))
    return [*rows, measure_journal(num_requests), measure_scheduler(num_requests)]


def main() -> None:
    """Be the bench."""
    choices, _ = parse_choices(__doc__.splitlines()[0])
    rows = measure(choices)
    about = stamp((*PACKAGES, *SERVICE_PACKAGES))
    note = "the service and what asks it share this machine's cores; fsync of its disk counts"
    report(__doc__.splitlines()[0], rows, COLUMNS, choices, notes=(note,), about=about)


if __name__ == "__main__":
    main()
