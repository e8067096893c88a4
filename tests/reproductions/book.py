"""The book of reproductions: what papers report beside what comes out here.

python tests/reproductions/book.py              every chapter
python tests/reproductions/book.py ranks noise  some

docs/reproductions.md has what each prints, and the sources.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# In the order of the page; each is a module of chapters/ with a function `rows`.
CHAPTERS = [
    "outliers",
    "mini_bulk",
    "normalization",
    "blocks",
    "gradient_descent",
    "heavy_ball",
    "adam",
    "noise",
    "ranks",
    "reduced_rank",
    "rescaling",
    "derivatives",
    "influence",
    "surgeon",
    "covariance",
]


class Row(NamedTuple):
    """A published number beside ours."""

    claim: str
    published: str
    here: str
    reached: bool


def rows(chapter: str) -> list[Row]:
    """Compute a chapter."""
    found: list[Row] = importlib.import_module(f"reproductions.chapters.{chapter}").rows()
    return found


def text(found: list[Row]) -> str:
    """Return the rows as a table, as the page has them."""
    table = [("", "published", "here", ""), *((*row[:3], "" if row.reached else "not reached") for row in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def main(names: list[str]) -> None:
    """Print the chapters that are named, or all."""
    unknown = set(names) - set(CHAPTERS)
    if unknown:
        raise SystemExit(f"no chapter {', '.join(sorted(unknown))}; there are {', '.join(CHAPTERS)}")
    for name in names or CHAPTERS:
        print(f"{name}\n{text(rows(name))}\n", flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests"), str(ROOT / "examples")]
    main(sys.argv[1:])
