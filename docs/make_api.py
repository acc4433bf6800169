"""Write the API reference from docstrings: ``python docs/make_api.py FOLDER``.

What is here is what users import; the rest of the tree is for those who change Hocket.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

MODULES = (
    "hocket",
    "hocket.module",
    "hocket.inference",
    "hocket.simulation",
    "hocket.simulation_result",
    "hocket.federation",
    "hocket.backend",
    "hocket.store_parts",
    "hocket.compiler.options",
    "hocket.compiler.problem",
    "hocket.compiler.errors",
    "hocket.compiler.attention.lower",
    "hocket.compiler.attention.tiling",
    "hocket.compiler.attention.explain",
    "hocket.compiler.attention.schedule.dataflows",
    "hocket.compiler.attention.search.objective",
    "hocket.compiler.attention.search.searcher",
    "hocket.runtime.session",
    "hocket.runtime.artifact",
    "hocket.runtime.signature",
    "hocket.runtime.errors",
    "hocket.hwmodels.machine",
    "hocket.hwmodels.loader",
    "hocket.hwmodels.program",
    "hocket.hwmodels.estimate",
    "hocket.hwmodels.errors",
    "hocket.fl.config",
    "hocket.fl.core.strategy",
    "hocket.fl.core.types",
    "hocket.fl.core.backend",
    "hocket.fl.core.data",
    "hocket.fl.core.devices",
    "hocket.fl.core.engine",
    "hocket.fl.core.coordinator",
    "hocket.fl.core.observers",
    "hocket.fl.core.store",
    "hocket.fl.core.errors",
    "hocket.fl.strategies.averaging",
    "hocket.fl.fat.cascade",
    "hocket.fl.fat.strategy",
    "hocket.fl.photon.config",
    "hocket.fl.venn.policies",
    "hocket.fl.venn.requests",
    "hocket.fl.venn.scheduler",
    "hocket.fl.venn.service.client",
    "hocket.fl.store.recording",
    "hocket.fl.store.round_store",
    "hocket.fl.store.workloads.workload",
)


def make_api(folder: Path) -> None:
    """Write the pages of all ``MODULES``; a warning is an error.

    Raises:
        RuntimeWarning, UserWarning: An annotation or a docstring cannot be read.
    """
    from pdoc import pdoc, render

    render.configure(docformat="google", show_source=False, footer_text="Hocket")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        # Its fields are annotated in the module of its parent, where this name is known.
        warnings.filterwarnings("ignore", ".*RoundRequest.__init__. Import of Mapping", UserWarning)
        # A package brings all below it, which the second word takes away again.
        pdoc(MODULES[0], r"!hocket\.", *MODULES[1:], output_directory=folder)


if __name__ == "__main__":
    make_api(Path(sys.argv[1]))
