"""Loads what all instances have in common, in the process that they are forked from."""

from __future__ import annotations

import hocket.fl.store.instance  # noqa: F401
from hocket.fl.store.workloads import means

means.load_kernels()
