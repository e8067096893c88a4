"""Gradients of single samples."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError, ParametersChangedError
from specop_torch.samples import SampleGradients
from torch_cases import MODELS, WEIGHTS, close, exact, labels, problem, same, snapshot, split

NAMES = [name for name in MODELS if name != "tied"]


def refuse(self, start, stop):
    raise RuntimeError("vmap: not today")


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_gradients(name, mapped, monkeypatch):
    if not mapped:
        monkeypatch.setattr(SampleGradients, "_mapped", refuse)
    model, criterion, batch = problem(name)
    objective = specop.objective(model, criterion, split(batch, 5, 4, 2), weight=WEIGHTS.get(name))
    blocks = list(objective.per_sample_gradients(block_bytes=2 * objective.n * 8))
    assert [len(block) for block in blocks] == [2, 2, 1, 2, 2, 2]
    rows = torch.cat(blocks)
    close(rows.mean(0), objective.gradient())
    close(rows.T @ rows / 11, objective.fisher(kind="empirical", of="samples").to_dense())
    if name not in WEIGHTS:
        for row, sample in zip(rows, split(batch, *[1] * 11), strict=True):
            close(row, exact(model, criterion, sample)[1])
    close(torch.cat(list(objective.per_sample_gradients())), rows)
    v = torch.ones(objective.n).double()
    of_samples = objective.fisher(kind="empirical", of="samples")
    close(of_samples.block_diagonal(["*"]) @ v, of_samples @ v)


def test_vmap_is_used_where_it_can_be(monkeypatch):
    monkeypatch.setattr(SampleGradients, "_looped", refuse)
    for name in NAMES:
        model, criterion, batch = problem(name)
        next(specop.objective(model, criterion, batch).per_sample_gradients())


def test_a_model_that_cannot_be_mapped():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1e9 else x

    _, criterion, batch = problem("mlp")
    model = Branching(3, 3).double()
    rows = torch.cat(list(specop.objective(model, criterion, batch).per_sample_gradients()))
    for row, sample in zip(rows, split(batch, *[1] * 11), strict=True):
        close(row, exact(model, criterion, sample)[1])


def test_frozen_parameters_have_zero_columns():
    model, criterion, batch = problem("mlp")
    model[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen"):
        objective = specop.objective(model, criterion, batch, select="*")
    (rows,) = objective.per_sample_gradients()
    assert rows.shape == (11, 31) and not rows[:, :16].any()
    close(rows.mean(0), objective.gradient())


def test_samples_that_depend_on_each_other_are_refused():
    _, criterion, batch = problem("mlp")
    normalized = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    objective = specop.objective(normalized, criterion, batch, fixed_randomness=0)
    for call in (
        lambda: list(objective.per_sample_gradients()),
        objective.fisher(kind="empirical").to_dense,
    ):
        with pytest.raises(InvalidInputError, match=r"layer '1' \(BatchNorm1d\).*single samples do not exist.*eval"):
            call()
    assert torch.isfinite(objective.ggn().to_dense()).all()


def test_what_cannot_be():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, split(batch, 6, 5))
    with pytest.raises(InvalidInputError, match="block_bytes must be a positive number of bytes, got 0"):
        objective.per_sample_gradients(block_bytes=0)
    with pytest.raises(InvalidInputError, match="theta must have shape"):
        objective.per_sample_gradients(torch.ones(3).double())
    blocks = objective.per_sample_gradients()
    next(blocks)
    model[0].bias.data.add_(1.0)
    with pytest.raises(ParametersChangedError):
        next(blocks)


def test_nothing_is_touched_between_blocks():
    model, criterion, batch = problem("cnn")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), batch_size=4)
    before = snapshot(model)
    objective = specop.objective(model, criterion, loader, memory_budget=0)
    for _ in objective.per_sample_gradients(block_bytes=1):
        after = snapshot(model)
        assert all(same(before[part], after[part]) for part in before)


def test_the_gradient_of_a_sample_with_class_weights_is_its_part_of_the_mean():
    model, _, (x, _) = problem("mlp")
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.2, 3.0]).double())
    objective = specop.objective(model, criterion, (x, labels(11)))
    (rows,) = objective.per_sample_gradients()
    close(rows.mean(0), objective.gradient())
    weights = criterion.weight[labels(11)]
    for i in range(11):
        alone = exact(model, F.cross_entropy, (x[i : i + 1], labels(11)[i : i + 1]))[1]
        close(rows[i], 11 * weights[i] / weights.sum() * alone)
