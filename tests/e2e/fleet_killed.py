"""Runs a fleet and kills its own process, SIGKILL, when a job has had some round."""

import os
import signal
import sys

from hocket.fleet.config import load_fleet_config
from hocket.fleet.run import prepare_fleet, run_fleet


def main() -> None:
    """``python fleet_killed.py FILE FOLDER JOB-ROUND``."""
    job, _, number = sys.argv[3].partition("-")

    def told(done: object) -> None:
        if (done.name, done.rounds_done) == (job, int(number)):
            os.kill(os.getpid(), signal.SIGKILL)

    config = load_fleet_config(sys.argv[1], {"fleet.folder": sys.argv[2]})
    run_fleet(prepare_fleet(config), told=told)


if __name__ == "__main__":
    main()
