"""The command line: reports, and one line for everything that goes wrong."""

import base64
import json
import os
import random
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from specop.errors import InvalidInputError
from specop.report import cli
from specop.report.commands import commands
from specop.report.contents import SECTIONS
from specop.results.result import load

ROOT = Path(__file__).parents[2]
BARE = ["--k", "3", "--k-low", "1", "--steps", "8", "--probes", "1", "--trace-rtol", "0.5"]
# A report of the eigenvalues alone: what else there is has tests of its own.
SMALL = [*BARE, *(word for name in SECTIONS for word in ("--without", name))]
MODEL = """
import torch, specop
print("the task talks")
def objective():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(4, 3)
    x, y = torch.randn(20, 4, generator=generator), torch.arange(20) % 3
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=generator))
        model.bias.zero_()
    return specop.objective(model, torch.nn.functional.cross_entropy, (x, y))
"""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, list(words), prog_name="specop")


def refused(result: Result) -> str:
    """Return the one line of a refusal."""
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line != "the task talks"]
    assert line.startswith("specop: ")
    return line


def report_of(text: str) -> Result:
    Path("task.py").write_text(text)
    return run("report", "task.py", *SMALL)


def test_demo_in_a_pipe_writes_a_report_without_a_bar(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "specop.report.cli", "demo", "--out", str(tmp_path / "report")]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **paths})
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stdout
    for words in ("gradient norm", "Hessian trace", "largest eigenvalues", "smallest eigenvalues", "products"):
        assert words in done.stdout
    names = {path.name for path in (tmp_path / "report").iterdir()}
    results = ("largest", "smallest", "trace", "density", "critical_point", "stability", "flatness", "blocks")
    assert names == {"report.html", "density.png", "report.json", *(f"{name}.npz" for name in results)}
    assert max(len(line) for line in done.stdout.splitlines() if "files in" not in line) <= 80
    # Ten and five eigenvalues, the trace to 2 % and a density of three probes, where each by itself took 482 in all.
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert sum(content[name]["matvecs"] for name in ("largest", "smallest", "trace", "density")) < 150
    assert content["refused"] == {}
    assert content["critical_point"]["kind"] and len(content["blocks"]["names"]) == 3


def test_json_is_alone_on_stdout_and_agrees_with_the_files(in_folder: Path) -> None:
    Path("task.py").write_text(MODEL)
    done = run("report", "task.py", *SMALL, "--json", "--out", "made/here")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout, parse_constant=pytest.fail)
    assert content == json.loads(Path("made/here/report.json").read_text())
    assert (content["parameters"], content["samples"]) == (15, 20)
    assert load("made/here/largest.npz").eigenvalues.tolist() == content["largest"]["eigenvalues"]
    assert content["products"] == sum(content[name]["matvecs"] for name in ("largest", "smallest", "trace", "density"))
    assert all(Path(name).exists() for name in content["files"])


def test_report_agrees_with_the_dense_hessian(in_folder: Path) -> None:
    Path("task.py").write_text(MODEL)
    content = json.loads(run("report", "task.py", *SMALL, "--json").stdout)
    space: dict = {}
    exec(MODEL, space)
    objective = space["objective"]()
    exact = np.linalg.eigvalsh(objective.hessian().to_dense().double().numpy())
    assert content["largest"]["eigenvalues"] == pytest.approx(exact[-3:], rel=1e-4)
    assert content["loss"] == pytest.approx(float(objective.loss()))
    assert content["gradient_norm"] == pytest.approx(float(objective.gradient().norm()))
    assert content["trace"]["estimate"] == pytest.approx(exact.sum(), abs=4 * content["trace"]["standard_error"] + 1e-5)


class Page(HTMLParser):
    """Reads a page strictly: each element is closed, in order, and no name stands for two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.open.append(tag)
        self._note(tag, dict(attributes))

    def handle_startendtag(self, tag, attributes) -> None:
        assert tag in ("meta", "br", "img"), tag
        self._note(tag, dict(attributes))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def _note(self, tag: str, attributes: dict) -> None:
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        self.images += [attributes] if tag == "img" else []


def test_the_page_holds_all_of_the_report_and_needs_nothing_else(in_folder: Path) -> None:
    Path("task.py").write_text(MODEL.replace("% 3", "% 3  # <&>"))
    Path("a<b>&.py").write_text(Path("task.py").read_text())
    done = run("report", "a<b>&.py", *BARE)
    assert done.exit_code == 0, done.stderr
    content = Path("specop-report/report.html").read_text(encoding="utf-8")
    assert content.startswith('<!DOCTYPE html>\n<html lang="en">') and '<meta charset="utf-8"/>' in content
    assert "prefers-color-scheme: dark" in content
    page = Page()
    page.feed(content)
    page.close()
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    # Also as XML, which forgives nothing.
    tree = ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>\n"))
    assert tree.find("head/title").text == "Curvature of the loss: a<b>&.py"
    for link in page.links:
        assert link.startswith("data:image/svg+xml;base64,") or link.removeprefix("#") in page.ids
    assert len(page.images) == 4 and all(image["alt"] for image in page.images)
    for image in page.images:
        drawn = base64.b64decode(image["src"].partition(",")[2])
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
    text = " ".join(page.text)
    found = json.loads(Path("specop-report/report.json").read_text())
    for value in (*found["largest"]["eigenvalues"], *found["smallest"]["eigenvalues"]):
        assert f"{value:.8g}" in text
    assert f"{found['products']:,}" in text and found["critical_point"]["kind"] in text
    for name in found["flatness"]["measures"]:
        assert name.replace("_", " ") in text


def test_a_section_that_is_refused_is_named_and_the_others_are_there(in_folder: Path, monkeypatch) -> None:
    def refuse(*_, **__) -> None:
        raise InvalidInputError("no block has <any> rows.")

    monkeypatch.setattr("specop.report.report.blocks", refuse)
    Path("task.py").write_text(MODEL)
    done = run("report", "task.py", *BARE, "--without", "flatness", "--without", "stability")
    assert done.exit_code == 0, done.stderr
    found = json.loads(Path("specop-report/report.json").read_text())
    assert found["refused"] == {"blocks": "no block has <any> rows."}
    assert "critical_point" in found and "stability" not in found and "blocks" not in found
    assert "not computed: no block has <any> rows." in done.stdout
    page = Path("specop-report/report.html").read_text(encoding="utf-8")
    assert "Not computed: no block has &lt;any&gt; rows." in page
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def test_no_smallest_eigenvalues_on_request(in_folder: Path) -> None:
    Path("task.py").write_text(MODEL)
    done = run("report", "task.py", *SMALL, "--k-low", "0")
    assert done.exit_code == 0, done.stderr
    assert "smallest" not in done.stdout
    assert not Path("specop-report/smallest.npz").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "missing.py"], "missing.py"),
        (["report"], "TASK"),
        (["demo", "--k", "0"], "--k"),
        (["demo", "--k", "ten"], "ten"),
        (["demo", "--trace-rtol", "nan"], "nan is not a finite number"),
        (["demo", "--tol", "inf"], "inf is not a finite number"),
        (["demo", "--tol", "-1"], "--tol"),
        (["demo", "--probes", "0"], "--probes"),
        (["demo", "--colour"], "--colour"),
        (["demo", "--without", "trace"], "critical point"),
        (["dmeo"], "dmeo"),
        (["demo", "--out", "file"], "file"),
        (["demo", "--out", "file/below"], "file"),
    ],
)
def test_wrong_words_are_refused(in_folder: Path, words: list[str], told: str) -> None:
    Path("file").touch()
    assert told in refused(run(*words))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "must define a function objective()"),
        ("from specop import objective", "of its own"),
        ("def objective(model): pass", "must not need arguments"),
        ("def objective(): return 3", "returned int"),
        ("\ndef objective(): return 1 / 0", "ZeroDivisionError in {folder}/task.py, line 2: division by zero"),
        ("import no_such_module", "ModuleNotFoundError in {folder}/task.py, line 1"),
        ("x = (", "SyntaxError in {folder}/task.py, line 1"),
        ("raise SystemExit('bye')", "SystemExit in {folder}/task.py, line 1: bye"),
        ("raise ValueError('two\\nlines')", "two lines"),
        (MODEL.replace("% 3", "% 7"), "IndexError"),
        (MODEL.replace("(x, y))", "iter([(x, y)]))"), "read only once"),
        (MODEL.replace("bias.zero_()", "bias.fill_(float('nan'))"), "NaN"),
    ],
)
def test_wrong_tasks_are_refused(in_folder: Path, text: str, told: str) -> None:
    assert told.format(folder=in_folder.resolve()) in refused(report_of(text))


def test_more_eigenvalues_than_parameters_are_refused(in_folder: Path) -> None:
    Path("task.py").write_text(MODEL)
    assert "n=15" in refused(run("report", "task.py", "--k", "16"))


def test_traceback_on_request(in_folder: Path) -> None:
    Path("task.py").write_text("def objective(): return 1 / 0")
    done = run("report", "task.py", "--traceback")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


def test_a_task_can_import_its_neighbours(in_folder: Path) -> None:
    Path("specop_test_neighbour.py").write_text(MODEL)
    done = report_of("from specop_test_neighbour import objective")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("missing", ["matplotlib.figure", "tqdm", "specop_torch.demo"])
def test_missing_extras_are_named(in_folder: Path, monkeypatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert "pip install 'specop[" in refused(run("demo", *SMALL))


def test_missing_click_is_one_line(monkeypatch, capsys) -> None:
    monkeypatch.delitem(sys.modules, "specop.report.commands")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "specop: the command line needs pip install 'specop[cli]'\n"


def test_help_and_version() -> None:
    assert run("--version").stdout.startswith("specop ")
    assert run().stdout == run("--help").stdout
    assert "def objective():" in run("report", "--help").stdout
    assert run("report", "--help").exit_code == 0


def test_the_demo_leaves_random_states_alone_and_repeats_itself() -> None:
    from specop_torch import demo

    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = demo.objective()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    torch.manual_seed(6)
    assert torch.equal(first.gradient(), demo.objective().gradient())
    assert float(first.loss()) < 0.05


def test_the_example_task_reports(in_folder: Path) -> None:
    done = run("report", str(ROOT / "examples" / "report_task.py"), *SMALL, "--tol", "0.05")
    assert done.exit_code == 0, done.stderr
    assert "1,797" in done.stdout
