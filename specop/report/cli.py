"""main: where the command line begins; the commands are in `specop.report.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``specop`` and exit: 0 after a report, 2 after wrong input, which is explained in one line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after the program's name; default: those of the process.
    """
    try:
        from specop.report.commands import commands
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("specop: the command line needs pip install 'specop[cli]'", file=sys.stderr)
        sys.exit(2)
    commands.main(arguments, prog_name="specop")


if __name__ == "__main__":
    main()
