"""A federation against attacks and two language models on one population of simulated devices.

`fleet/rehearsal.toml` says who the devices are and which jobs want them; training is real, time is
simulated, and every update is in the store, which is asked questions meanwhile. `hocket fleet run`
does the same, `plan` compares policies first. It needs the extras ``photon`` and ``store``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fleet.config import load_fleet_config
from hocket.fleet.run import prepare_fleet, run_fleet

if TYPE_CHECKING:
    from hocket.fleet.jobs import TrainedJob


def tell(job: TrainedJob) -> None:
    """Print that a job has had a round."""
    print(f"{job.name}: round {job.rounds_done} done")


def main() -> None:
    """Run the rehearsal."""
    file = Path(__file__).with_name("fleet") / "rehearsal.toml"
    with tempfile.TemporaryDirectory() as folder:
        config = load_fleet_config(file, {"fleet.folder": folder})
        ended = run_fleet(prepare_fleet(config), told=tell)
        for job in ended.jobs:
            print(f"{job.name}: digest {job.progress.digest[:16]}")
        for answer in ended.answers:
            print(f"{answer['workload']} of {answer['job']} after round {answer['round']}")


if __name__ == "__main__":
    main()
