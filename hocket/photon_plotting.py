"""What runs of Photon have learned, as a picture: perplexity by tokens, and by bytes sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hocket.fl.core.coordinator import decode_report
from hocket.fl.core.errors import ConfigError
from hocket.fl.photon.config import METRICS
from hocket.plotting import check_can_draw, picture_format
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.fl.core.types import RoundReport

_INCHES = (9.0, 3.6)
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Curve:
    """One run's.

    Attributes:
        name: Of the run.
        tokens: That the model had seen, by round.
        megabytes: That had been sent, up and down, by round.
        losses: Of training, in the mean of the round; nan where none is told.
        held_out: Losses on text that was held out; nan in rounds without.
    """

    name: str
    tokens: tuple[float, ...]
    megabytes: tuple[float, ...]
    losses: tuple[float, ...]
    held_out: tuple[float, ...]


def read_curve(folder: str | os.PathLike[str]) -> Curve:
    """Return the curve of a run from its folder.

    Raises:
        ConfigError: There are no metrics in it.
    """
    path = Path(folder) / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; want the folder of a run, where `hocket photon train` "
            "keeps its metrics"
        ) from error
    return curve_of(Path(folder).name, [decode_report(line.encode()) for line in lines])


def curve_of(name: str, reports: Sequence[RoundReport]) -> Curve:
    """Return the curve of a run."""
    trained = [report.train_metrics for report in reports]
    return Curve(
        name,
        tuple(each["tokens"] for each in trained),
        tuple((each["uploaded_bytes"] + each["downloaded_bytes"]) / _MEGABYTE for each in trained),
        tuple(each.get("loss", math.nan) for each in trained),
        tuple(each.evaluate_metrics.get("server_loss", math.nan) for each in reports),
    )


def draw_curves(curves: Sequence[Curve], path: str | os.PathLike[str]) -> None:
    """Draw runs side by side, and write the picture whole or not at all.

    Lines are perplexities on held-out text; thin ones, of training.

    Args:
        curves: Of the runs.
        path: The file to write; its ending says as what.

    Raises:
        PlotError: matplotlib is not installed.
        ValueError: The file's ending is that of no known format.
    """
    check_can_draw()
    kind = picture_format(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    by_tokens, by_bytes = figure.subplots(1, 2, sharey=True)
    for number, curve in enumerate(curves):
        color = f"C{number}"
        for axes, places in ((by_tokens, curve.tokens), (by_bytes, curve.megabytes)):
            shown = [
                (place, math.exp(loss))
                for place, loss in zip(places, curve.held_out, strict=True)
                if math.isfinite(loss)
            ]
            if shown:
                axes.plot(*zip(*shown, strict=True), color=color, marker=".", label=curve.name)
        perplexities = [math.exp(loss) for loss in curve.losses]
        by_tokens.plot(curve.tokens, perplexities, color=color, linewidth=0.7, alpha=0.6)
    by_tokens.set(xlabel="tokens", ylabel="perplexity", yscale="log")
    by_bytes.set(xlabel="MB sent, up and down", xscale="log")
    for axes in (by_tokens, by_bytes):
        axes.grid(visible=True, alpha=0.3)
    by_bytes.legend(fontsize="small", frameon=False)
    with atomic_file(Path(path)) as file:
        figure.savefig(file, format=kind)
