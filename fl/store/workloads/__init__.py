"""Work on what federations leave, a family of questions a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.fl.store.workloads import (
    contribution,
    means,
    models,
    records,
    selection,
    similarity,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hocket.fl.store.workloads.workload import Workload

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for family in (similarity, contribution, selection, records, means, models)
    for workload in family.WORKLOADS
}
