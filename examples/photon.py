"""A language model trained by two clients that speak to each other only now and then.

One client has English, the other Python: both made up from words, as bytes. Each takes ten steps by
itself and sends its change of the model in eight bits; the server makes a step of the mean.
`photon.toml` says all of it; `hocket photon train` does the same on any engine, with real text from
`hocket photon data`. It needs the extra ``photon``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.core.observers import Silent
from hocket.fl.photon.config import load_photon_config
from hocket.fl.photon.shards import write_shards
from hocket.photon import train_photon

if TYPE_CHECKING:
    from hocket.fl.core.types import RoundReport

WORDS = {
    "english": [
        "the",
        "a",
        "small",
        "large",
        "phone",
        "model",
        "trains",
        "learns",
        "waits",
        "and",
        "then",
        "or",
    ],
    "python": [
        "def",
        "return",
        "if",
        "else",
        "for",
        "in",
        "self",
        "None",
        "True",
        "import",
        "x",
        "=",
        "y",
        "+",
        "1",
        ":",
    ],
}


class Told(Silent):
    """Prints each round."""

    def finished(self, report: RoundReport) -> None:
        """Print what a round came to."""
        perplexity = np.exp(report.evaluate_metrics["server_loss"])
        print(f"round {report.round}: perplexity {perplexity:.1f}")


def write_texts(folder: Path) -> None:
    """Write the shards: sixty texts of each kind."""
    rng = np.random.default_rng(0)
    texts = {
        name: [" ".join(rng.choice(words, 60)) for _ in range(60)] for name, words in WORDS.items()
    }
    write_shards(folder, texts, lambda text: list(text.encode()), 128, end_of_text=0)


def main() -> None:
    """Make the texts, train, and say what was sent."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "photon.toml"
        path.write_text(Path(__file__).with_suffix(".toml").read_text("utf-8"), encoding="utf-8")
        write_texts(path.with_name("shards"))
        result = train_photon(load_photon_config(path), observers=[Told()])
        print(f"digest {result.digest[:16]}, {result.model.stat().st_size:,} bytes of model")


if __name__ == "__main__":
    main()
