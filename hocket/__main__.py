"""``python -m hocket``, and the ``hocket`` command."""

from __future__ import annotations

import sys

# "Internal software error" by the old convention: not 1, which answers a question with no.
BUG = 70


def main() -> None:
    """Run the command line, and leave with its exit status."""
    from hocket.cli import BAD_INPUT, app, is_foreseen

    try:
        app(prog_name="hocket")
    except Exception as error:  # noqa: BLE001 (the last chance to say something)
        import traceback

        traceback.print_exc()
        sys.exit(BAD_INPUT if is_foreseen(error) else BUG)


if __name__ == "__main__":
    main()
