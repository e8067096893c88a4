"""The version is one, wherever it stands, and no misspelled name passes for it."""

import re
from importlib import metadata
from pathlib import Path

import pytest

import specop

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere():
    version = metadata.version("specop")
    assert specop.__version__ == version
    assert re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == version
    assert re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="'specop' has no attribute 'eigs'"):
        specop.eigs  # noqa: B018
