"""The documentation has a page for everything public."""

import importlib
import inspect
import sys
from pathlib import Path

import specop

DOCS = Path(__file__).parents[2] / "docs"


def api_pages():
    sys.path.insert(0, str(DOCS / "_extensions"))
    try:
        return importlib.import_module("api_pages")
    finally:
        sys.path.pop(0)


def test_every_public_name_has_a_page(tmp_path):
    written = api_pages()
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
    api_pages().write_pages(tmp_path)
    assert not (tmp_path / "specop.gone.rst").exists()
