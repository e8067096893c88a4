"""The documentation has a page for everything public, and says what errors mean."""

import functools
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
    texts = [" ".join(text.split()) for _, text, _ in all_messages()]
    assert len(texts) > 400
    quoted = re.findall(r'^### "(.*)"$', ERRORS, flags=re.M)
    assert len(quoted) > 15
    for words in quoted:
        assert any(words in text for text in texts), words


def test_each_message_has_a_reason(tmp_path):
    found = extension("reasons")
    by_family = {family.title: [] for family in found.FAMILIES}
    for kind, text, path in all_messages():
        words = " ".join(text.split())
        family = found.family_of(kind, words, path)
        assert family, f"no reason for {words!r} of {path}: add its words to a family in docs/_extensions/reasons.py"
        by_family[family.title].append(words)
    assert all(by_family.values()) and len(by_family) == len(found.FAMILIES)
    # The last family takes what no other has, such as a number out of its range: a reason of its own belongs elsewhere.
    rest = [*by_family.values()][-1]
    assert len(rest) < 90, f"give some of these a family in docs/_extensions/reasons.py: {rest}"
    extension("messages").write_page(tmp_path / "messages.rst")
    page = (tmp_path / "messages.rst").read_text()
    for family in found.FAMILIES:
        assert family.title in page and family.why in page


@functools.cache
def all_messages():
    return list(extension("messages").messages())


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("has active dropout", "Products would be of several matrices"),
        ("was donated to a jitted function. Make a new objective", "The model has moved"),
        ("samples are coupled", "Samples depend on each other"),
        ("the outputs must be one real array", "need the outputs"),
        ("holds NaN or infinity, or its norm overflows", "is not finite"),
        ("is in FSDP1", "in parts on several devices"),
        ("have the same data, to the last bit", "Several processes"),
        ("brings its own learning rate", "limit of stable steps"),
        ("the loss is not analytic", "no minimum"),
        ("which can be read only once", "read once for each product"),
        ("@once_differentiable", "derivative is missing"),
        ("matches no parameter", "selected"),
        ("is singular: the damping is 0", "indefinite or singular"),
        ("specop never moves a vector between frameworks", "another framework"),
        ("pass directions or to, not both", "do not go together"),
        ("k must be an integer from 1 to n=", "type or range"),
    ],
)
def test_messages_stand_under_their_reasons(words, title):
    found = [one for one in all_messages() if words in " ".join(one[1].split())]
    assert found
    for kind, text, path in found:
        assert title in extension("reasons").family_of(kind, " ".join(text.split()), path).title


@pytest.mark.parametrize(
    ("inside", "mended"),
    [
        (
            "<msub><munder><mi>J</mi><mo>⏟</mo></munder><mi>G</mi></msub>",
            "<munder><munder><mi>J</mi><mo>⏟</mo></munder><mi>G</mi></munder>",
        ),
        ("<msub><mi>J</mi><mi>G</mi></msub>", "<msub><mi>J</mi><mi>G</mi></msub>"),
        (
            "<mi>n</mi><mi>log</mi><mo>&ApplyFunction;</mo><mi>p</mi>",
            '<mi>n</mi><mspace width="0.17em" /><mi>log</mi><mo>\u2061</mo><mspace width="0.17em" /><mi>p</mi>',
        ),
        (
            "<mo>=</mo><mi>log</mi><mo>&ApplyFunction;</mo><mo>(</mo>",
            "<mo>=</mo><mi>log</mi><mo>\u2061</mo><mo>(</mo>",
        ),
    ],
)
def test_formulas_have_labels_and_spaces(inside, mended):
    start = '<math xmlns="http://www.w3.org/1998/Math/MathML">'
    assert extension("formulas").mended(f"{start}{inside}</math>") == f"<math>{mended}</math>"


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
