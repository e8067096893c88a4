"""Printed text beside what was expected: numbers as numbers, whose last digits are the processor's, and no times."""

import re

import pytest

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
SECONDS = re.compile(r"[\d.]+ s\b")


def alike(want, got, rel=1e-6):
    """Tell whether two texts have the same words, and numbers that differ by rounding."""
    wanted, found = (SECONDS.sub("some s", text) for text in (want, got))
    numbers = [[float(word) for word in NUMBER.findall(text)] for text in (wanted, found)]
    texts = ["".join(NUMBER.sub("0", text).split()) for text in (wanted, found)]
    return texts[0] == texts[1] and numbers[1] == pytest.approx(numbers[0], rel=rel, abs=1e-9)
