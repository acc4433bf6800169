"""Phones that come and go, shared by two federated jobs: live, and in the simulator.

One job may use any phone, the other only those with much memory. Who is first come, first served
gives large phones away to the job that could use any; Venn's policy keeps them. It needs the extra
``fl``.
"""

from __future__ import annotations

import numpy as np

from hocket.fl.core.types import Device
from hocket.fl.venn.policies import POLICIES
from hocket.fl.venn.requests import RoundRequest
from hocket.fl.venn.scheduler import VennScheduler
from hocket.fl.venn.simulator import RoundRules, simulate
from hocket.fl.venn.traces import surrogate_trace
from hocket.fl.venn.workloads import workload_named


def share(policy: str) -> int:
    """Offer phones until both jobs have theirs; return how many phones that took."""
    scheduler = VennScheduler(POLICIES[policy])
    scheduler.submit(RoundRequest("keyboard", 40))
    scheduler.submit(RoundRequest("vision", 20, {"memory_bytes": 6e9}))
    rng = np.random.default_rng(0)
    wanted, offered = 60, 0
    while wanted:
        memory = 8e9 if rng.random() < 0.3 else 4e9
        phone = Device(f"phone-{offered}", {"memory_bytes": memory})
        offered += 1
        wanted -= scheduler.offer(phone) is not None
    return offered


def main() -> None:
    """Share phones by two policies, and simulate a workload of Venn's evaluation by three."""
    for policy in ("fifo", "venn"):
        offered = share(policy)
        print(f"{policy}: {offered} phones until both jobs have theirs")

    workload = workload_named("even")
    jobs = workload.draw(6, seed=1, round_share=0.05)
    trace = surrogate_trace(seed=1, num_clients=5_000)
    for policy in ("random", "srsf", "venn"):
        found = simulate(trace, jobs, POLICIES[policy], rules=RoundRules(num_days=60), seed=1)
        hours = np.nanmean(found.completion_seconds) / 3600
        print(f"{policy}: {found.completed_jobs} of {len(jobs)} jobs, {hours:.1f} h in the mean")


if __name__ == "__main__":
    main()
