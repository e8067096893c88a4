"""Installs a wheel with one extra alone, in an environment of its own, and runs a program of that framework there.

    python -m build --wheel && python tests/release/wheels.py --wheel dist/*.whl --extra torch --versions lowest

With "lowest" every dependency that pyproject.toml names has the lowest version that it allows. Needs uv.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "": """
import numpy, specop
A = numpy.diag(numpy.arange(1.0, 101.0))
assert abs(specop.eigsh(A, k=2).eigenvalues - [99, 100]).max() < 1e-3
assert abs(specop.logdet(A).estimate - numpy.log(numpy.arange(1.0, 101.0)).sum()) < 10
""",
    "torch": """
import torch, specop
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
x, y = torch.randn(20, 3).double(), torch.randint(2, (20,))
names = [name for name, _ in model.named_parameters()]
def loss(*values):
    outputs = torch.func.functional_call(model, dict(zip(names, values)), (x,))
    return torch.nn.functional.cross_entropy(outputs, y)
blocks = torch.autograd.functional.hessian(loss, tuple(model.parameters()))
sizes = [p.numel() for p in model.parameters()]
dense = torch.cat([torch.cat([b.reshape(s, -1) for b in row], 1) for row, s in zip(blocks, sizes)])
objective = specop.objective(model, torch.nn.CrossEntropyLoss(), (x, y))
right = torch.linalg.eigvalsh(dense.detach())
assert abs(specop.eigsh(objective.hessian(), k=2, which="LA").eigenvalues - right[-2:].numpy()).max() < 1e-6
assert abs(specop.trace(objective.hessian()).estimate - float(dense.trace())) < 1e-8
objective.ggn() @ torch.ones(objective.n).double(), objective.fisher() @ torch.ones(objective.n).double()
specop.landscape.stability(objective, lr=0.1)
# More classes than torch's own cross-entropy is used for.
weight, v = torch.randn(4200, 3).double(), torch.randn(12600).double()
y = torch.arange(20) * 211
def many_classes(w, batch=y):
    return torch.nn.functional.cross_entropy(x @ w.T, batch)
many = specop.objective(many_classes, params=weight, data=y)
_, right = torch.autograd.functional.hvp(many_classes, weight, v.view(4200, 3))
assert (many.hessian() @ v - right.flatten()).norm() < 1e-10
""",
    "jax": """
import jax, jax.flatten_util, jax.numpy as jnp, numpy, specop
jax.config.update("jax_enable_x64", True)
keys = jax.random.split(jax.random.key(0), 4)
params = {"a": jax.random.normal(keys[0], (3, 4)), "b": jax.random.normal(keys[1], (4, 1))}
data = jax.random.normal(keys[2], (20, 3)), jax.random.normal(keys[3], (20, 1))
def loss(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["a"]) @ params["b"] - batch[1]) ** 2)
objective = specop.objective(loss, params=params, data=data)
flat, back = jax.flatten_util.ravel_pytree(params)
right = numpy.linalg.eigvalsh(jax.hessian(lambda t: loss(back(t), data))(flat))
assert abs(specop.eigsh(objective.hessian(), k=2, which="LA").eigenvalues - right[-2:]).max() < 1e-6
assert abs(specop.trace(objective.hessian()).estimate - right.sum()) < 1e-8
""",
    "tensorflow": """
import keras, numpy, specop
import tensorflow as tf
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)])
x, y = numpy.random.randn(20, 3).astype("float32"), numpy.random.randint(2, size=20)
criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
objective = specop.objective(model, criterion, (x, y))
with tf.GradientTape(persistent=True) as outer:
    with tf.GradientTape() as inner:
        loss = criterion(y, model(x))
    variables = [weight.value for weight in model.trainable_weights]
    gradient = tf.concat([tf.reshape(g, -1) for g in inner.gradient(loss, variables)], 0)
rows = [tf.concat([tf.reshape(b, (gradient.shape[0], -1))
                   for b in outer.jacobian(gradient, variables, experimental_use_pfor=False)], 1)]
right = numpy.linalg.eigvalsh(numpy.asarray(rows[0], dtype=float))
assert abs(specop.eigsh(objective.hessian(), k=2, which="LA", tol=1e-4).eigenvalues - right[-2:]).max() < 1e-4
assert abs(specop.trace(objective.hessian()).estimate - right.sum()) < 1e-4
""",
}  # fmt: skip
AROUND = """
import specop, importlib.metadata, sys
assert specop.__version__ == importlib.metadata.version("specop")
assert not {"torch", "jax", "tensorflow", "keras"} & set(sys.modules)
"""


def requirements(extra):
    """What pyproject.toml asks for, of the core and of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--extra", choices=sorted(PROGRAMS), default="")
    parser.add_argument("--versions", choices=["newest", "lowest", "tested"], default="newest")
    parser.add_argument("--python", default="3.11")
    chosen = parser.parse_args()
    wheel = chosen.wheel.resolve()
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        run("uv", "venv", "-q", "--python", chosen.python, python.parents[1])
        how = {
            "newest": [],
            "lowest": ["--resolution", "lowest-direct", *requirements(chosen.extra)],
            "tested": ["-c", ROOT / "constraints.txt"],
        }[chosen.versions]
        what = f"specop[{chosen.extra}] @ {wheel.as_uri()}" if chosen.extra else f"specop @ {wheel.as_uri()}"
        run("uv", "pip", "install", "-q", "--python", python, what, *how)
        versions = run("uv", "pip", "freeze", "-q", "--python", python, capture=True)
        names = {name.partition(">=")[0] for name in requirements(chosen.extra)}
        kept = [line for line in versions.splitlines() if line.partition("==")[0] in names]
        print(chosen.extra or "core", chosen.versions, f"Python {chosen.python}", *kept, flush=True)
        for program in (AROUND, PROGRAMS[chosen.extra]):
            run(python, "-c", program, cwd=folder)
    print("passed")


def run(*command, capture=False, cwd=None):
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE if capture else None, text=True, timeout=1500, cwd=cwd
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))[:200]}")
    return done.stdout


if __name__ == "__main__":
    main()
