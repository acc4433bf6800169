"""Makes a folder that stands for a Raspberry Pi: Debian's Python and onnxruntime for AArch64.

    python tests/support/make_board.py FOLDER

What is downloaded: some packages of Debian's archive for arm64, for which lists of its own are
kept, and wheels of onnxruntime and numpy. The emulator gives programs these files in place of this
machine's, among them a ``/proc/cpuinfo`` of a Cortex-A76: onnxruntime looks there.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8", "libssl3"),
    *("libbz2-1.0", "liblzma5", "libuuid1"),
)
WHEELS = ("onnxruntime", "numpy")
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


def main(folder: Path) -> None:
    """Make the folder, or leave it as it is if it is whole."""
    root, site, archive = folder / "root", folder / "site", folder / "archive"
    if (folder / "whole").exists():
        return
    for each in (root, site, archive / "lists" / "partial", archive / "cache"):
        each.mkdir(parents=True, exist_ok=True)
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State::lists": archive / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": archive / "cache",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    _run([*apt, "update"], archive)
    _run([*apt, "download", *PACKAGES], archive)
    for package in sorted(archive.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)], archive)
    platforms = (f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28))
    pins = [f"{name}=={version(name)}" for name in WHEELS]
    python = [*platforms, "--only-binary=:all:", "--python-version=3.11"]
    _run(
        [sys.executable, "-m", "pip", "install", "-q", f"--target={site}", *python, *pins], archive
    )
    _write(root / "proc" / "cpuinfo", CPUINFO)
    for name in ("possible", "present", "online"):
        _write(root / "sys" / "devices" / "system" / "cpu" / name, "0\n")
    _write(folder / "whole", "")


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
