"""Run the federation of ``test_coordinator`` slowly enough to be killed on the way."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from support.federation import Clients, SoftmaxRegression, StandingClock

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.store import FolderStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.strategies.averaging import FederatedAveraging


def main() -> None:
    """Run six rounds, a tenth of a second each."""
    federation = Coordinator(
        Plan("test", num_rounds=6, seed=11),
        FederatedAveraging(
            training=LocalTraining(epochs=1, batch_size=4, learning_rate=0.3), fraction_train=0.5
        ),
        InProcessEngine(Clients(), StandingClock()),
        FifoScheduler(),
        FolderStore(sys.argv[1]),
        StandingClock(),
    )
    progress = federation.begin(SoftmaxRegression().parameters())
    print("begun", flush=True)  # noqa: T201
    while progress.round < 6:
        progress = federation.run_round(progress)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
