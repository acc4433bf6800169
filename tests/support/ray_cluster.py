"""A Ray cluster on this machine that all tests of a process share."""

from __future__ import annotations

from pathlib import Path


def share_cluster() -> None:
    """Start a cluster that all tests share, as it takes seconds to start."""
    import ray

    if not ray.is_initialized():
        path = {"PYTHONPATH": str(Path(__file__).parents[1])}
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": path},
        )
