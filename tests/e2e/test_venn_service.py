"""The service as a real process: killed under load, shared by federations, in commands."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.digits_federation import write_federation
from typer.testing import CliRunner

import hocket
from hocket import cli
from hocket.fl.core.devices import DeviceRequest
from hocket.fl.core.types import Device
from hocket.fl.venn.service.client import ServiceClient
from hocket.fl.venn.service.operations import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

runner = CliRunner()


class Process:
    """A service on a database, which may be killed and started again at the same port."""

    def __init__(self, database: Path, *options: str) -> None:
        self.database, self.options, self.port = database, options, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "hocket", "venn", "serve", "--database", self.database]
        self.popen = subprocess.Popen(
            [*map(str, command), "--port", str(self.port), *self.options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert "serving" in line
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def end(self, number: int) -> None:
        self.popen.send_signal(number)
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    def client(self, token: str = "") -> ServiceClient:
        """Return a client that outlasts a restart."""
        return ServiceClient(
            self.url, token, attempts=600, sleep=lambda seconds: time.sleep(min(seconds, 0.1))
        )


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "venn.db")
    yield process
    if process.popen.poll() is None:
        process.end(signal.SIGTERM)


class Load:
    """Gateways and job managers that ask all the time, and remember what they were told."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.is_over = threading.Event()
        self.rounds: dict[str, int] = {}
        self.owners: dict[int, str] = {}
        self.num_answers = 0

    def be_gateway(self, number: int) -> dict[str, int]:
        """Check devices in and report results; return who works, by assignment.

        What a device works for must be the same at every check-in, until its result is in.
        """
        draw, client = random.Random(number), self.process.client()
        held: dict[str, int] = {}
        while not self.is_over.is_set():
            names = [f"d{number}-{draw.randrange(40)}" for _ in range(4)]
            found = client.check_in([Device(name, {"memory": 2.0}) for name in names])
            self.num_answers += 1
            for name, each in zip(names, found, strict=True):
                if name in held:
                    assert each is not None, f"{name} works for nobody, but has no result"
                    assert each.assignment == held[name], f"{name} is in two places"
                elif each is not None:
                    # What another device was told is never said again.
                    assert self.owners.setdefault(each.assignment, name) == name
                    held[name] = each.assignment
            if len(held) > 20:
                done = draw.sample(sorted(held), 8)
                results = [Result(assignment=held.pop(name)) for name in done]
                assert all(client.report(results)), "no result of a device at work is refused"
        client.close()
        return held

    def be_manager(self) -> None:
        """Register jobs and ask for devices; rounds are never ended."""
        client = self.process.client()
        number = 0
        while not self.is_over.is_set():
            job = f"job-{number}"
            client.register(job, num_rounds=10)
            self.rounds[job] = client.ask_devices(
                DeviceRequest(job, 30, {"memory": 1.0}), deadline_seconds=86400.0
            )
            self.num_answers += 1
            number += 1
        client.close()


def test_nothing_admitted_is_lost_when_it_is_killed_under_load(process: Process) -> None:
    load, draw = Load(process), random.Random(7)
    with ThreadPoolExecutor(4) as pool:
        gateways = [pool.submit(load.be_gateway, number) for number in range(3)]
        manager = pool.submit(load.be_manager)
        asking = [*gateways, manager]
        try:
            for _ in range(3):
                enough = load.num_answers + draw.randrange(20, 60)
                while load.num_answers < enough and not any(each.done() for each in asking):
                    time.sleep(draw.random() / 100)
                process.end(signal.SIGKILL)
                process.start()
        finally:
            load.is_over.set()
        manager.result()
        held = {name: number for each in gateways for name, number in each.result().items()}
    client = process.client()
    status = client.status()
    found = {each.job: each for each in status.jobs}
    assert found.keys() == load.rounds.keys()
    assert {name: each.round for name, each in found.items()} == load.rounds
    active = [each for job in found for each in client.devices(job)]
    assert {each.device: each.assignment for each in active} == held
    assert status.at_work == len(active)
    client.close()


def test_two_federations_share_devices_and_learn_what_each_learns_alone(
    process: Process, tmp_path: Path
) -> None:
    """Both want all devices in each round, so that rounds must take turns."""
    section = f'\n[devices]\nservice = "{process.url}"\nwait-seconds = 600.0\n'
    files = []
    for name, seed in (("first", 3), ("second", 4)):
        folder = tmp_path / name
        folder.mkdir()
        path = write_federation(folder, rounds=2, more=section)
        text = path.read_text("utf-8").replace('name = "digits"', f'name = "{name}"')
        text = text.replace("seed = 3", f"seed = {seed}").replace("train = 0.5", "train = 1.0")
        path.write_text(text.replace("epochs = 2", "epochs = 1"), encoding="utf-8")
        files.append(path)
    with ThreadPoolExecutor(2) as pool:
        shared = [found.digest for found in pool.map(hocket.federate, files)]
    client = process.client()
    status = client.status()
    client.close()
    assert {each.job: each.phase for each in status.jobs} == dict.fromkeys(
        ("first", "second"), "finished"
    )
    assert status.given == status.answered == 2 * 2 * 6
    assert status.at_work == 0
    alone = []
    for path in files:
        path.write_text(path.read_text("utf-8").replace(section, ""), encoding="utf-8")
        alone.append(hocket.federate(path).digest)
    assert shared == alone


def test_tokens_from_the_command_open_the_service(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    made = runner.invoke(
        cli.app, ["venn", "token", "ops", "--role", "operator", "--tokens", str(tokens)]
    )
    assert made.exit_code == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.split(".")[1] not in tokens.read_text("utf-8")
    assert tokens.stat().st_mode & 0o077 == 0
    process = Process(tmp_path / "venn.db", "--tokens", str(tokens))
    try:
        client = process.client(secret)
        client.register("keyboard", num_rounds=3)
        client.ask_devices(DeviceRequest("keyboard", 5, {"memory": 2.0}))
        client.check_in([Device("d1", {"memory": 4.0}), Device("d2", {"memory": 1.0})])
        client.close()
        environment = {"HOCKET_SERVICE_TOKEN": secret, "COLUMNS": "160"}
        shown = runner.invoke(cli.app, ["venn", "status", process.url], env=environment)
        assert shown.exit_code == 0, shown.stderr
        assert "4 of 5" in shown.stdout
        assert "'keyboard' wants 4 of 5 devices" in shown.stdout
        as_json = runner.invoke(
            cli.app, ["venn", "status", process.url, "--job", "keyboard", "--json"], env=environment
        )
        (job,) = json.loads(as_json.stdout)["jobs"]
        assert (job["job"], job["wanted"], job["at_work"]) == ("keyboard", 4, 1)
        ended = runner.invoke(cli.app, ["venn", "cancel", process.url, "keyboard"], env=environment)
        assert ended.stdout == "cancelled keyboard\n"
        refused = runner.invoke(cli.app, ["venn", "status", process.url], env={"COLUMNS": "160"})
        assert refused.exit_code == 2
        assert "want a token (status 401)" in " ".join(refused.stderr.split())
    finally:
        process.end(signal.SIGTERM)
    # What was answered is there again, with the same token.
    process.start()
    client = process.client(secret)
    assert [(each.job, each.phase) for each in client.status().jobs] == [("keyboard", "cancelled")]
    client.close()
    process.end(signal.SIGINT)


def test_commands_refuse_what_cannot_be(tmp_path: Path) -> None:
    def refusal_of(*arguments: object) -> str:
        result = runner.invoke(cli.app, ["venn", *map(str, arguments)], env={"COLUMNS": "160"})
        assert result.exit_code == 2
        return " ".join(result.stderr.split())

    database = str(tmp_path / "venn.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = refusal_of("serve", "--database", database, "--port", port)
        assert f"cannot listen at 127.0.0.1, port {port}" in told
        assert "give another --port" in told
    absent = ("--certificate", tmp_path / "c.pem", "--key", tmp_path / "k.pem")
    told = refusal_of("serve", "--database", tmp_path / "tls.db", "--port", 0, *absent)
    assert "c.pem: there is no such file" in told
    assert "want tokens" in refusal_of("serve", "--database", database, "--host", "0.0.0.0")
    assert "no policy 'x'" in refusal_of("serve", "--database", database, "--policy", "x")
    assert "--key" in refusal_of("serve", "--database", database, "--certificate", "c.pem")
    assert "want a URL" in refusal_of("status", "ftp://somewhere")
    other = tmp_path / "other.db"
    other.write_text("this is no database, whatever it is called")
    assert "is no database" in refusal_of("serve", "--database", str(other))
