"""A process whose memory is capped: it trains modules of a model within it, and not the whole one.

Run as ``python -m support.capped_training SHARE``, like ``module_memory``. The cap is on all data
of the process (``RLIMIT_DATA``): what it has before training, and a device's memory on top.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import resource
import sys
from pathlib import Path

import torch
from support.module_memory import SMALL, make, modules_of, train

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.spans import Piece

WIDTHS = (32, 64, 0, 128, 128, 0, 256, 256, 0, 256, 256, 0)
BATCH = 32
MARGIN = 1.15
"""Of the memory that footprints predict: measured peaks are within a tenth of these."""


def data_bytes() -> int:
    """Return the bytes of the process that count for the limit."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def fits(spans: object, piece: Piece, training: LocalTraining, cap_bytes: int) -> bool:
    """Return whether a piece can be trained in so much memory more than there is in use."""
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + cap_bytes, resource.RLIM_INFINITY))
    try:
        train(spans, piece, training, BATCH)  # type: ignore[arg-type]
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return False
    except MemoryError:
        return False
    finally:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    return True


def main(share: float) -> dict[str, object]:
    torch.set_num_threads(1)
    training = LocalTraining(batch_size=BATCH, momentum=0.9, weight_decay=1e-4)
    train(make(SMALL, 8), Piece(), training, 2)  # libraries are loaded
    spans = make(WIDTHS, BATCH)
    cascade = modules_of(spans, training, share)
    pieces = [cascade.piece(number, number) for number in range(len(cascade))]
    for piece in [*pieces, Piece()]:  # programs are made
        train(spans, piece, training, 1)
    whole = spans.footprint(spans.artifact.target, training, Piece().span)
    budget = int(share * whole.peak_bytes)
    # Weights are there already, and so counted in what is in use.
    found = [fits(spans, piece, training, int(MARGIN * budget)) for piece in pieces]
    return {
        "budget": budget,
        "whole": whole.peak_bytes,
        "modules_fit": found,
        "whole_fits": fits(spans, Piece(), training, int(MARGIN * budget)),
        "whole_fits_without": fits(spans, Piece(), training, int(MARGIN * whole.peak_bytes)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(float(sys.argv[1]))) + "\n")
