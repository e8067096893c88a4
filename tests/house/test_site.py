"""The documentation has a page for everything public, and says what errors mean."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import specop

DOCS = Path(__file__).parents[2] / "docs"


def extension(name):
    sys.path.insert(0, str(DOCS / "_extensions"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def test_every_public_name_has_a_page(tmp_path):
    written = extension("api_pages")
    written.write_pages(tmp_path)
    namespaces = {f"specop.{name}" for name in specop.__all__ if inspect.ismodule(getattr(specop, name))}
    assert namespaces <= set(written.NAMESPACES)
    index = (tmp_path / "index.rst").read_text()
    for module in ["specop", *written.NAMESPACES]:
        for name in importlib.import_module(module).__all__:
            if not inspect.ismodule(getattr(importlib.import_module(module), name)):
                assert f":: {name}\n" in (tmp_path / f"{module}.{name}.rst").read_text()
                assert f"<{module}.{name}>`" in index


def test_pages_of_names_that_went_are_removed(tmp_path):
    (tmp_path / "specop.gone.rst").write_text("gone")
    extension("api_pages").write_pages(tmp_path)
    assert not (tmp_path / "specop.gone.rst").exists()


def test_every_function_is_in_the_table():
    table = (DOCS / "functions.md").read_text()
    for room in (specop, specop.analysis, specop.landscape, specop.training):
        for name in room.__all__:
            if inspect.isfunction(getattr(room, name)) or name.endswith("Operator"):
                assert re.search(rf"\b{name}\b", table), name


ERRORS = (DOCS / "errors.md").read_text()


def test_each_class_of_errors_has_a_row():
    rows = set(re.findall(r"^\| `(\w+)` \|", ERRORS, flags=re.M))
    assert rows == set(specop.errors.__all__)


def test_quoted_messages_are_what_is_raised():
    texts = [" ".join(text.split()) for _, text, _ in extension("messages").messages()]
    assert len(texts) > 400
    quoted = re.findall(r'^### "(.*)"$', ERRORS, flags=re.M)
    assert len(quoted) > 15
    for words in quoted:
        assert any(words in text for text in texts), words


@pytest.mark.parametrize(
    ("short", "full"),
    [
        (r"\frac12 x", r"\frac{1}{2} x"),
        (r"\frac1m \sum", r"\frac{1}{m} \sum"),
        (r"\frac r2 + \frac{n - r}4", r"\frac{r}{2} + \frac{n - r}{4}"),
        (r"\frac{a}{b}", r"\frac{a}{b}"),
        (r"\frac{\sqrt{a}}{b}", r"\frac{\sqrt{a}}{b}"),
    ],
)
def test_fractions_have_braces(short, full):
    assert extension("short_fractions").braced(short) == full
