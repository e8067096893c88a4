"""`specop track` draws a history, and refuses the rest in one line."""

import json

import numpy as np
import pytest

import specop
from landscape_cases import FRAMEWORKS, objective_of, quadratic

pytest.importorskip("click")
from click.testing import CliRunner

from specop.report.commands import commands

FRAMEWORK = FRAMEWORKS[0]
pytestmark = getattr(pytest.mark, FRAMEWORK)


def run(*words):
    return CliRunner().invoke(commands, list(map(str, words)), prog_name="specop")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "run.npz"
    at = iter([np.ones(3), np.full(3, np.nan), np.full(3, 0.5)])
    monitor = specop.training.Monitor(
        lambda: objective_of(FRAMEWORK, *quadratic(np.diag([1.0, 2.0, 3.0]), next(at))), every=5, lr=0.1, history=path
    )
    monitor.record(0)
    with pytest.warns(specop.errors.NonFiniteWarning):
        monitor.record(5)
    monitor.record(10)
    return path


def test_a_history_is_drawn_beside_its_file(saved):
    done = run("track", saved)
    assert done.exit_code == 0, done.output
    assert "history of 3 records, steps 0 to 10" in done.stdout and "gap at step 5: the loss is nan" in done.stdout
    assert done.stdout.splitlines()[-1] == f"picture: {saved.with_suffix('.png')}"
    assert saved.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_json_has_the_columns(saved, tmp_path):
    done = run("track", saved, "--json", "--quantity", "loss", "--out", tmp_path / "loss.png")
    content = json.loads(done.stdout, parse_constant=pytest.fail)
    assert content["columns"]["step"] == [0, 5, 10]
    assert content["columns"]["lambda_max"] == [pytest.approx(3.0, rel=1e-2), None, pytest.approx(3.0, rel=1e-2)]
    assert (tmp_path / "loss.png").exists() and content["gaps"].keys() == {"5"}


def test_what_is_no_history_is_refused_in_one_line(saved, tmp_path):
    other = tmp_path / "eigen.npz"
    specop.eigsh(np.diag([1.0, 2.0]), k=1).save(other)
    for words, text in {
        (
            saved,
            "--quantity",
            "speed",
        ): "quantity must be one of loss, lr, lambda_max, lambda_max_level, sharpness, ",
        (other,): "eigen.npz holds a EigenResult and no history",
        (saved, "--out", tmp_path / "absent" / "x.png"): "cannot write",
        (tmp_path / "absent.npz",): "does not exist",
    }.items():
        done = run("track", *words)
        assert (done.exit_code, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("specop: ") and text in line


def test_compare_prints_differences_and_refuses_in_one_line(tmp_path):
    for name, top in (("a", 4.0), ("b", 5.0)):
        specop.eigsh(np.diag([1.0, 2.0, top]), k=1).save(tmp_path / f"{name}.npz")
    specop.trace(np.eye(3)).save(tmp_path / "trace.npz")
    done = run("compare", tmp_path / "a.npz", tmp_path / "b.npz")
    assert done.exit_code == 0 and "EigenResult a.npz and b.npz: 1 of 1 numbers differ" in done.stdout
    found = json.loads(run("compare", tmp_path / "a.npz", tmp_path / "b.npz", "--json").stdout)
    assert abs(found["differences"][0] - 1.0) < 1e-12 and found["differ"] == [True]
    done = run("compare", tmp_path / "a.npz", tmp_path / "trace.npz")
    assert done.exit_code == 2 and "only results of one kind can be compared" in done.stderr
