"""What ``hocket doctor`` says of parts: by requirements as package metadata have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hocket.fl.data import sources
from hocket.installation import (
    PARTS,
    Part,
    data_advice,
    find_parts,
    missing_package,
    torch_advice,
)

REQUIREMENTS = (
    "numpy<3,>=2.0",
    "ml-dtypes>=0.5",
    'torch<3,>=2.6; extra == "fl"',
    'pebble>=5.1; extra == "fl"',
    'ray>=2.40; extra == "ray"',
    'uvloop>=0.21; sys_platform == "no such system" and extra == "service"',
)
INSTALLED = {"numpy": "2.4.6", "ml-dtypes": "0.6", "torch": "2.13.0+cpu", "pebble": "5.2"}


def parts_with(**others: str | None) -> dict[str, Part]:
    """Return parts by extra, with other packages installed, or not."""
    installed = INSTALLED | others
    return {part.extra: part for part in find_parts(REQUIREMENTS, installed.get)}


def test_parts_are_told_apart_by_extra() -> None:
    found = parts_with()
    assert list(found) == list(PARTS)
    assert [part.extra for part in found.values() if not part.is_ready] == ["ray"]
    assert found["ray"].missing == ("ray",)
    assert found["ray"].mend == "pip install 'hocket[ray]'"


@pytest.mark.parametrize("version", ["1.26.4", "3.0", "2.0rc1"])
def test_a_version_out_of_bounds_will_not_do(version: str) -> None:
    found = parts_with(numpy=version)
    (unfit,) = found[""].unfit
    assert unfit.startswith(f"numpy {version} (want ")
    assert found["fl"].is_ready
    assert found[""].mend == "pip install hocket"


def test_what_is_wanted_anyway_is_lacked_by_no_extra() -> None:
    found = parts_with(numpy=None, torch=None)
    assert found[""].missing == ("numpy",)
    assert found["fl"].missing == ("torch",)


def explained(module: str, extras: tuple[str, ...], **others: str | None) -> str:
    """Return what is said where a module cannot be imported; empty if nothing is."""
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    return str(missing_package(error, "this", extras, parts_with(**others).values()) or "")


def test_a_missing_package_is_told_with_all_others_of_what_was_asked() -> None:
    said = explained("torch.nn", ("fl",), torch=None, pebble=None)
    assert said == "this takes torch, pebble, which are not installed: pip install 'hocket[fl]'"
    said = explained("pebble", ("fl", "ray"), pebble=None)
    assert said == "this takes pebble, ray, which are not installed: pip install 'hocket[fl,ray]'"


def test_a_missing_package_of_another_extra_is_told_with_that_one() -> None:
    said = explained("ray.util", ("fl",), torch=None)
    assert said == "this takes ray, which is not installed: pip install 'hocket[ray]'"
    said = explained("ml_dtypes", ("fl",), **{"ml-dtypes": None})
    assert said == "this takes ml-dtypes, which is not installed: pip install hocket"


def test_a_module_that_no_extra_brings_is_not_explained() -> None:
    assert explained("nobodys", ("fl",)) == ""
    assert explained("torch.nothing", ("fl",)) == ""  # it is installed


def test_this_installation_has_all_extras_of_the_tests() -> None:
    assert [part.extra for part in find_parts() if not part.is_ready] == []


def test_torch_builds_that_do_not_suit_the_machine_are_told(tmp_path: Path) -> None:
    device, nothing = tmp_path / "gpu", tmp_path / "nothing"
    device.touch()
    assert "gigabytes for nothing" in torch_advice("2.13.0+cu130", nothing)
    assert "cannot use the GPU" in torch_advice("2.13.0+cpu", device)
    for version, here in (("2.13.0+cu130", device), ("2.13.0+cpu", nothing), (None, device)):
        assert torch_advice(version, here) == ""


def test_missing_data_and_tools_are_told_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FASHION_MNIST_FOLDERS", ())
    monkeypatch.setenv("HOCKET_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    images, text = data_advice()
    assert "make data" in images
    assert "no apt-get and no dpkg-deb" in text
    (tmp_path / "fashion-mnist").mkdir()
    (tmp_path / "fashion-mnist" / "train-images-idx3-ubyte.gz").touch()
    for name in ("apt-get", "dpkg-deb"):
        (tmp_path / name).touch(0o755)
    assert data_advice() == []
