"""``python -m hocket``, and the ``hocket`` command."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# "Internal software error" by the old convention: not 1, which answers a question with no.
BUG = 70


def main() -> None:
    """Run the command line, and leave with its exit status."""
    from hocket.cli import BAD_INPUT, app, is_foreseen

    _end_at_sigterm()
    for stream in (sys.stdout, sys.stderr):
        # Names of files, and signs of ours, that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="hocket")
    except Exception as error:  # noqa: BLE001 (the last chance to say something)
        import traceback

        traceback.print_exc()
        sys.exit(BAD_INPUT if is_foreseen(error) else BUG)


def _end_at_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does: workers end with it, and no half a file is left."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    from hocket.cli import SignalError

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)  # who asks twice means it
        raise SignalError(number)

    signal.signal(signal.SIGTERM, end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


if __name__ == "__main__":
    main()
