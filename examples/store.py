"""Keep every update of a federation, and ask of them what training does not tell.

Ten devices send three rounds of updates of a small model; one of them sends noise. The store says
who that is, who is like whom, and what the model would be without it, while one of the processes
that work is killed. It needs the extra ``store``.
"""

from __future__ import annotations

import os
import signal
import tempfile

import numpy as np

from hocket.fl.core.store import Key
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.workloads.workload import Question
from hocket.store_parts import open_round_store

DEVICES = [f"phone-{place}" for place in range(10)]


def main() -> None:
    """Fill a store, and ask."""
    rng = np.random.default_rng(0)
    model = rng.standard_normal(100_000).astype(np.float32)
    ways = rng.standard_normal((2, model.size)).astype(np.float32)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_round_store(folder, memory_bytes=64 << 20, must_exist=False) as store,
    ):
        store.ingest(Key("demo", 0, SERVER, MODEL), {"weights": model})
        for number in (1, 2, 3):
            updates = {}
            for place, device in enumerate(DEVICES):
                change = 0.1 * ways[place % 2] + 0.02 * rng.standard_normal(model.size)
                if device == "phone-7":
                    change = rng.standard_normal(model.size)
                updates[device] = (model + change).astype(np.float32)
                key = Key("demo", number, device, UPDATE)
                store.ingest(key, {"weights": updates[device]}, {"num_examples": 100})
            model = np.mean(list(updates.values()), axis=0, dtype=np.float32)
            shares = {Key("demo", number, device, UPDATE): 0.1 for device in DEVICES}
            key = Key("demo", number, SERVER, MODEL)
            store.ingest(key, {"weights": model}, made_from=shares)

        found = store.ask("filtering", Question("demo", options={"rule": "length"}))
        print("stands out:", ", ".join(found.values["suspicious"]))
        found = store.ask("clustering", Question("demo", options={"clusters": 3}))
        for group in found.values["clusters"]:
            print("alike:", ", ".join(group))
        store.ask("robust-mean", Question("demo"))
        for process in store.instances.processes():
            os.kill(process, signal.SIGKILL)
        answer = store.ask("unlearning", Question("demo", device="phone-7"))
        moved = np.linalg.norm(answer.arrays["weights"] - model) / np.linalg.norm(model)
        print(f"without phone-7 the model is {moved:.0%} elsewhere")
        usage = store.instances.usage()
        print(f"{usage.num_lost} instance was killed, {usage.num_retries} request run again")


if __name__ == "__main__":
    main()
