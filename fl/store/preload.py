"""Loads what all instances have in common, in the process that they are forked from."""

from __future__ import annotations

# Work imports it only where it needs it, as that takes a second or two: here once for all.
import sklearn.cluster  # noqa: F401

import hocket.fl.store.instance  # noqa: F401
from hocket.fl.store.workloads import means

means.load_kernels()
