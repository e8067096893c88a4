"""Each chapter of the book of reproductions prints what its page has."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from printed import alike
from reproductions import book

PAGE = (Path(__file__).parents[2] / "docs" / "reproductions.md").read_text()
PRINTED = dict(re.findall(r"<!-- (\w+) -->\n```text\n(.*?)```", PAGE, flags=re.DOTALL))


def test_the_page_has_every_chapter():
    assert [*PRINTED] == book.CHAPTERS


@pytest.mark.torch
@pytest.mark.slow
# The network that is pruned was trained with a penalty, which its objective leaves out.
@pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")
@pytest.mark.parametrize("chapter", book.CHAPTERS)
def test_a_chapter_prints_what_the_page_has(chapter):
    # Trained networks end a little elsewhere on other processors.
    printed = book.text(book.rows(chapter))
    assert alike(PRINTED[chapter], printed, rel=0.1), printed
