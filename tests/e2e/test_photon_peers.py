"""Federations without a server: real processes, real sockets, the model that a server makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import photon_peers
from support.federation import StandingClock
from support.photon_peers import ROUNDS, RUNS, Failing, Wide
from support.photon_rounds import BATCH, CONTEXT, STEPS, Counting
from support.photon_text import write_config, write_text
from typer.testing import CliRunner

from hocket.cli import app
from hocket.fl.core.coordinator import Progress
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.parameters import decode_arrays, num_bytes
from hocket.fl.core.store import FolderStore, MemoryStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.wall_time import Exchange
from hocket.photon import train_photon

WORLD = 3
TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    environment = {**os.environ, "PYTHONPATH": TESTS, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, photon_peers.__file__]
    peers = [
        subprocess.Popen([*command, str(rank), str(WORLD), str(folder)], env=environment)
        for rank in range(WORLD)
    ]
    assert [peer.wait() for peer in peers] == [0] * WORLD
    return folder


def about(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(WORLD)]


def behind_a_server(scheme: str) -> Progress:
    class Made:
        def device_ids(self) -> list[str]:
            return Counting(WORLD).device_ids()

        def __call__(self) -> Failing:
            return Failing(PhotonClient(Wide(), Counting(WORLD), MemoryStore()))

    made = photon_peers.server(InProcessEngine(Made(), StandingClock()), "parameter-server", scheme)
    return made.run(made.begin(Wide().parameters()))


@pytest.mark.parametrize("name", RUNS)
def test_all_peers_have_the_model_that_a_server_makes(folder: Path, name: str) -> None:
    topology, scheme = RUNS[name]
    wanted = behind_a_server(scheme)
    found = about(folder, name)
    assert len({each["digest"] for each in found}) == 1
    parameters = decode_arrays((folder / f"{name}.safetensors").read_bytes(), name)
    if topology == "all-reduce":
        # All updates are added up in fixed point, wherever that is done.
        assert found[0]["digest"] == wanted.digest
    for key, array in wanted.state.parameters.items():
        moved = np.abs(array - Wide().parameters()[key]).max()
        # A sum of three float32 in another order, in each of three rounds.
        assert np.abs(parameters[key] - array).max() <= 1e-6 * moved
    tokens = STEPS * BATCH * CONTEXT
    assert all(each["tokens"] == (3 * ROUNDS - 1) * tokens for each in found)
    assert [len(failures) for failures in found[2]["failures"]] == [0, 1, 0]
    assert "out of memory" in found[2]["failures"][1][0]


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's counts are read as Linux has them"
)
@pytest.mark.parametrize("name", RUNS)
def test_sockets_send_what_the_wall_time_model_says(folder: Path, name: str) -> None:
    """In one of the three rounds, one of the three updates is missing."""
    topology, scheme = RUNS[name]
    size = num_bytes(Wide().parameters()) / (4 if scheme == "int8" else 1)
    exchange = Exchange(topology, WORLD, size)
    found = about(folder, name)
    # Where all is sent to all, the place of what is missing is sent empty.
    wanted = ROUNDS * exchange.total_bytes
    assert sum(each["sent"] for each in found) == pytest.approx(wanted, rel=0.03)
    for each in found:
        assert each["sent"] == pytest.approx(wanted / WORLD, rel=0.03)
        missing = 8 / 9
        assert each["uploaded"] == pytest.approx(missing * wanted, rel=0.03)
        assert each["downloaded"] == 0


def test_a_file_runs_without_a_server_and_goes_on_where_all_peers_were(tmp_path: Path) -> None:
    """One peer was a round behind when the run was broken off; a server ran it until then."""
    write_text(tmp_path)
    wanted = train_photon(write_config(tmp_path, "server"))
    folder = tmp_path / "peers"
    shutil.copytree(tmp_path / "server", folder)
    shutil.copytree(folder / "store", folder / "peers" / "1" / "store")
    behind = FolderStore(folder / "peers" / "1" / "store")
    for key in behind.keys("test/"):
        if key.round == 3 and key.kind in ("state", "report"):
            behind.delete(key)
    section = '\n[engine]\nname = "peers"\ntopology = "all-reduce"\n'
    picture = tmp_path / "losses.svg"
    answer = CliRunner().invoke(
        app,
        [
            *("photon", "train", str(write_config(tmp_path, "peers", more=section)), "--resume"),
            *("--plot", str(picture), "--json"),
        ],
    )
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["digest"] == wanted.digest
    assert "communication" in answer.stderr
    assert "<svg" in picture.read_text()[:500]
    again = tmp_path / "both.png"
    folders = [str(tmp_path / name) for name in ("server", "peers")]
    answer = CliRunner().invoke(app, ["photon", "plot", *folders, "-o", str(again)])
    assert answer.exit_code == 0, answer.output
    assert again.read_bytes()[:4] == b"\x89PNG"
    lines = (tmp_path / "peers" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["digest"] for line in lines] == [
        report.digest for report in wanted.reports
    ]


def test_around_a_ring_go_no_coarse_numbers(tmp_path: Path) -> None:
    write_text(tmp_path)
    section = '\n[engine]\nname = "peers"\n'
    with pytest.raises(ConfigError, match="around a ring"):
        train_photon(write_config(tmp_path, "ring", more=section))
    secret = section + "\n[secure]\n"
    with pytest.raises(ConfigError, match="want a server"):
        train_photon(write_config(tmp_path, "secret", more=secret))
