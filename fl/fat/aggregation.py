"""Means of what each client trained, where clients trained different parts of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.aggregation import in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientUpdate


def mean_of_parts(
    parameters: Parameters, updates: Sequence[ClientUpdate]
) -> dict[str, NDArray[Any]]:
    """Return each array's mean over the updates that hold it, weighted by examples.

    An array that no update holds stays as it is. Sums are float64.

    Args:
        parameters: All arrays, before.
        updates: With some of them each, by the names they have there.

    Raises:
        UpdateError: There are no updates, or two of one device.
    """
    ordered = in_order(updates)
    found = dict(parameters)
    for name, like in parameters.items():
        having = [each for each in ordered if name in each.parameters]
        if not having:
            continue
        total = sum(each.num_examples for each in having)
        first, *others = (
            (each.num_examples / total) * each.parameters[name].astype(np.float64)
            for each in having
        )
        summed = np.asarray(sum(others, start=first))
        found[name] = (summed.round() if like.dtype.kind in "iu" else summed).astype(like.dtype)
    return found
