"""The programs of docs/training.md run as they stand, and record."""

import re
from pathlib import Path

import pytest

import specop

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
PROGRAMS = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.M))
NEEDED = {
    "torch": ["torch"],
    "Lightning": ["torch", "lightning"],
    "Trainer of Hugging Face": ["torch", "transformers", "accelerate"],
    "Keras": ["tensorflow", "keras"],
    "flax.nnx with optax": ["flax", "optax"],
    "Functions and equinox modules with optax": ["equinox", "optax"],
}
LIBRARIES = {"flax": "jax", "equinox": "jax"}
# They compile for longer than they run, what the tests beside this one compile too.
SLOW = {"jax", "tensorflow"}


def marks(library):
    return [getattr(pytest.mark, library), *([pytest.mark.slow] if library in SLOW else [])]


CASES = [
    pytest.param(title, marks=marks(LIBRARIES.get(needed[0], needed[0])), id=title) for title, needed in NEEDED.items()
]


def test_each_program_has_a_case():
    assert PROGRAMS.keys() == NEEDED.keys()


# Lightning asks torch's trees by an old name.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("title", CASES)
def test_a_program_records(title, tmp_path, monkeypatch, capsys):
    for name in NEEDED[title]:
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monitors = []
    made = specop.training.Monitor.__init__

    def noting(self, *given, **named):
        monitors.append(self)
        made(self, *given, **named)

    monkeypatch.setattr(specop.training.Monitor, "__init__", noting)
    exec(compile(PROGRAMS[title], title, "exec"), {"__name__": "program"})
    (monitor,) = monitors
    assert len(monitor.history) >= 1 and monitor.history["lambda_max"][-1] > 0
    assert capsys.readouterr().out
