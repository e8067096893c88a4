"""The programs of the documentation run as they stand, and print what stands below them.

A block that begins with an import begins a program, and the blocks after it go on with that one. A block of text right
after a block of Python is what that prints, numbers within two percent.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from printed import alike

ROOT = Path(__file__).parents[2]
# Those with tests of their own, which ask more of them.
ELSEWHERE = {"docs/training.md": "training/test_page.py", "docs/extending.md": "house/test_extending.py"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.M)
# What a program imports, the library whose mark it has, and what else it needs.
LIBRARIES = {"torch": "torch", "jax": "jax", "tensorflow": "tensorflow", "keras": "tensorflow"}


class Block(NamedTuple):
    line: int
    code: str
    printed: str | None


def programs(page):
    """Return lists of blocks, one for each program of a page."""
    text, found, last = page.read_text(), [], None
    end = 0
    for match in BLOCK.finditer(text):
        kind, body = match.groups()
        line = text.count("\n", 0, match.start(2))
        if kind == "python":
            if re.match(r"(import|from) ", body) or not found:
                found.append([])
            found[-1].append(Block(line, body, None))
        elif kind == "text" and last == "python" and not text[end : match.start()].strip():
            found[-1][-1] = found[-1][-1]._replace(printed=body)
        last, end = kind, match.end()
    return found


def marks(program):
    code = "\n".join(block.code for block in program)
    imported = {mark for name, mark in LIBRARIES.items() if re.search(rf"\b(import|from) (.*\W)?{name}\b", code)}
    return [getattr(pytest.mark, mark) for mark in sorted(imported)]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PROGRAMS = [
    pytest.param(page, program, id=f"{page.relative_to(ROOT)}:{program[0].line}", marks=marks(program))
    for page in PAGES
    if str(page.relative_to(ROOT)) not in ELSEWHERE and "_build" not in page.parts
    for program in programs(page)
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_a_program_runs(page, program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "program"}
    for block in program:
        # Lines are counted as on the page.
        exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        if block.printed is not None:
            assert alike(block.printed, printed, rel=0.02), f"{page}:{block.line} prints\n{printed}"


@pytest.mark.parametrize("page", ELSEWHERE)
def test_pages_with_tests_of_their_own_are_read_there(page):
    assert Path(page).name in (ROOT / "tests" / ELSEWHERE[page]).read_text()
