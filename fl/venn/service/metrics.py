"""What Prometheus is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from hocket.fl.venn.service.manager import ResourceManager

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """Counters of one service, in a registry of their own.

    Args:
        manager: What gauges are read from, when somebody looks.
    """

    def __init__(self, manager: ResourceManager) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "hocket_venn_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "hocket_venn_request_seconds",
            "From a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "hocket_venn_commit_seconds",
            "Until a group of operations is on disk.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.group_size = Histogram(
            "hocket_venn_group_size",
            "Requests that are written together.",
            buckets=_SIZES,
            registry=registry,
        )
        self.pending = Gauge(
            "hocket_venn_pending", "Operations that wait to be written.", registry=registry
        )
        for name, text, read in (
            ("check_ins", "Devices that have checked in.", lambda: manager.num_check_ins),
            ("given", "Devices that got a job.", lambda: manager.num_given),
            ("at_work", "Devices that work for a job now.", lambda: manager.num_at_work),
            ("wanted", "Devices that jobs wait for.", lambda: manager.num_wanted),
            ("jobs", "Jobs that are not over.", lambda: manager.num_jobs),
        ):
            Gauge(f"hocket_venn_{name}", text, registry=registry).set_function(read)

    def text(self) -> bytes:
        """Return all of them in Prometheus' format."""
        return generate_latest(self._registry)
