"""The data: a mean that does not depend on its batches, and batches that are the same in each pass."""

from collections import UserDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import specop
from specop.errors import InvalidInputError, NondeterministicError
from specop_torch.autodiff import TorchAutodiff
from torch_cases import WEIGHTS, close, exact, problem, split

# --- The mean over the data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(11,), (10, 1), (1, 4, 6)])
def test_splits_change_nothing(sizes):
    model, criterion, batch = problem("mlp")
    loss, gradient, hessian = exact(model, criterion, batch)
    objective = specop.objective(model, criterion, split(batch, *sizes))
    close(objective.loss(), loss, 1e-12)
    close(objective.gradient(), gradient, 1e-12)
    close(objective.hessian().to_dense(), hessian, 1e-12)


def test_weight_counts_loss_terms():
    model, _, (x, y) = problem("mlp")
    y = torch.where(torch.arange(11) % 4 == 1, -100, y)  # padding, spread unevenly
    loss, _, hessian = exact(model, F.cross_entropy, (x, y))
    objective = specop.objective(
        model, F.cross_entropy, split((x, y), 6, 5), weight=lambda batch: (batch[1] != -100).sum()
    )
    close(objective.loss(), loss)
    close(objective.hessian().to_dense(), hessian)


def test_batches_of_weight_zero_do_not_count():
    model, criterion, batch = problem("mlp")
    first, second = split(batch, 6, 5)
    weight = {"weight": lambda batch: 6 * (len(batch[1]) == 6), "batches": "as given"}
    objective = specop.objective(model, criterion, [first, second], **weight)
    close(objective.gradient(), exact(model, criterion, first)[1])


@pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")
def test_rows_of_samples_that_do_not_count_are_zero():
    """Batches with nothing but padding: rows keep the numbers of the samples, and their mean is the gradient."""
    model, _, (x, y) = problem("mlp")
    y = torch.where((torch.arange(11) < 4) | (torch.arange(11) > 8), -100, y)
    batches = split((x, y), 4, 5, 2)
    found, whole = (specop.objective(model, F.cross_entropy, data) for data in (batches, (x, y)))
    rows = torch.cat(list(found.per_sample_gradients(block_bytes=1)))
    for i in range(11):
        expected = (
            exact(model, F.cross_entropy, (x[i : i + 1], y[i : i + 1]))[1] * 11 / 5 if 4 <= i <= 8 else 0 * rows[i]
        )
        close(rows[i], expected, 1e-12)
    close(rows.mean(0), exact(model, F.cross_entropy, (x, y))[1], 1e-12)
    v = found.theta
    close(
        found.inverse_fisher(damping=0.1) @ v,
        torch.linalg.solve(rows.T @ rows / 11 + 0.1 * torch.eye(31).double(), v),
        1e-9,
    )
    scores = specop.analysis.influence(found, v, damping=2.0).scores
    np.testing.assert_allclose(scores, specop.analysis.influence(whole, v, damping=2.0).scores, rtol=1e-8, atol=1e-14)
    assert not scores[[0, 1, 2, 3, 9, 10]].any() and scores[4:9].all()


@pytest.mark.parametrize("counted", [slice(40, 44), slice(20, 22), slice(5, 6)], ids=["last", "middle", "few"])
def test_first_samples_without_a_label(counted):
    """What is looked at in a few samples must not be a mean over none."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 3, dtype=torch.double), torch.randn(44, 3, dtype=torch.double)
    y = torch.full((44,), -100)
    y[counted] = torch.arange(44)[counted] % 3
    found = specop.objective(model, F.cross_entropy, (x, y)).hessian()
    close(found.to_dense(), exact(model, F.cross_entropy, (x[counted], y[counted]))[2], 1e-12)
    assert not found.notes


def test_the_next_batch_is_on_its_way_while_one_is_used(monkeypatch):
    model, criterion, batch = problem("mlp")
    events = []
    for name in ("prepare", "gradient"):
        call = getattr(TorchAutodiff, name)

        def noted(self, *arguments, name=name, call=call):
            events.append(name)
            return call(self, *arguments)

        monkeypatch.setattr(TorchAutodiff, name, noted)
    objective = specop.objective(model, criterion, split(batch, 5, 4, 2))
    objective.loss()  # looks at the first batches
    events.clear()
    objective.gradient()
    assert events == ["prepare", "prepare", "gradient", "prepare", "gradient", "gradient"]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda batch: 0, "all batches have weight zero"),
        (lambda batch: -1.0, "weight of batch 0 is -1.0"),
        (lambda batch: float("nan"), "weight of batch 0 is nan"),
        (lambda batch: batch[1] != -100, r"weight\(batch\) must be one number.*Tensor of shape \(11,\).*\.sum\(\)"),
        (lambda batch: None, r"weight\(batch\) must be one number.*got a NoneType"),
    ],
)
def test_weights_that_make_no_mean(weight, message):
    model, criterion, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match=message):
        specop.objective(model, criterion, batch, weight=weight).loss()


def test_a_data_set_of_single_samples_is_told_of_batches():
    model, criterion, (x, y) = problem("mlp")
    loader = DataLoader(TensorDataset(x, y), batch_size=None)
    with pytest.raises(InvalidInputError, match=r"if it is a single sample, give batches.*batch_size="):
        specop.objective(model, criterion, loader).loss()


def test_a_batch_of_any_structure_with_a_model():
    model, _, (x, y) = problem("mlp")
    objective = specop.objective(
        model,
        lambda outputs, batch: F.cross_entropy(outputs, batch["target"]),
        {"inputs": x, "target": y},
        forward=lambda model, batch: model(batch["inputs"]),
    )
    close(objective.hessian().to_dense(), exact(model, F.cross_entropy, (x, y))[2])


def test_a_data_loader():
    model, criterion, batch = problem("mlp")
    loader = DataLoader(TensorDataset(*batch), batch_size=4)
    close(specop.objective(model, criterion, loader).hessian().to_dense(), exact(model, criterion, batch)[2])


# --- Data that is not there twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "zip", "iterator"])
def test_one_shot_data_is_refused(kind):
    model, criterion, batch = problem("mlp")
    data = {"generator": (b for b in [batch]), "zip": zip(*batch, strict=True), "iterator": iter([batch])}[kind]
    with pytest.raises(InvalidInputError, match=rf"data is a {type(data).__name__}, which can be read only once.*list"):
        specop.objective(model, criterion, data)


def test_data_that_is_no_data():
    model, criterion, (x, y) = problem("mlp")
    with pytest.raises(InvalidInputError, match="data is missing"):
        specop.objective(model, criterion)
    with pytest.raises(InvalidInputError, match=r"one batch or a re-iterable of batches, got int"):
        specop.objective(model, criterion, 3)
    for empty in ([], DataLoader(TensorDataset(x[:3], y[:3]), batch_size=4, drop_last=True)):
        with pytest.raises(InvalidInputError, match=r"data holds no batch.*drop_last"):
            specop.objective(model, criterion, empty).loss()
    with pytest.raises(InvalidInputError, match=r"batch 1 is empty: its leading dimension is 0"):
        specop.objective(model, criterion, [(x, y), (x[:0], y[:0])]).loss()


def test_one_batch_as_a_list_is_explained():
    model, criterion, (x, y) = problem("mlp")
    with pytest.raises(InvalidInputError, match=r"must be a pair \(x, y\).*pass it as a tuple"):
        specop.objective(model, criterion, [x, y]).loss()
    with pytest.raises(InvalidInputError, match=r"must be a pair.*got tuple of 3.*forward=lambda"):
        specop.objective(model, criterion, (x, y, y)).loss()
    with pytest.raises(InvalidInputError, match=r"must be a pair.*got dict of 2.*forward=lambda"):
        specop.objective(model, criterion, {"x": x, "y": y}).loss()


def shuffling(batch):
    return DataLoader(TensorDataset(*batch), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))


def test_a_shuffling_loader_is_read_once_if_it_fits():
    model, criterion, batch = problem("mlp")
    H = specop.objective(model, criterion, shuffling(batch)).hessian()
    for _ in range(2):
        close(H.to_dense(), exact(model, criterion, batch)[2])


def test_a_shuffling_loader_that_does_not_fit_shuffles_alike_in_each_pass():
    model, criterion, batch = problem("mlp")
    loader = shuffling(batch)
    before = loader.generator.get_state()
    H = specop.objective(model, criterion, loader, memory_budget=0).hessian()
    close(H.to_dense(), exact(model, criterion, batch)[2])
    # It may be the loader that the model is trained on.
    assert torch.equal(loader.generator.get_state(), before)


def test_an_order_that_nobody_can_repeat_is_caught_if_it_does_not_fit():
    model, criterion, batch = problem("mlp")
    generator = torch.Generator().manual_seed(0)

    def order():
        return iter(torch.randperm(len(batch[0]), generator=generator).tolist())

    class Sampler:
        def __iter__(self):
            return order()

    loader = DataLoader(TensorDataset(*batch), batch_size=4, sampler=Sampler())
    objective = specop.objective(model, criterion, loader, memory_budget=0)
    with pytest.raises(
        NondeterministicError, match=r"batch 0 of this pass differs.*shuffle=False.*memory_budget above"
    ):
        objective.hessian().to_dense()


def test_a_loader_that_grows_or_shrinks_is_caught():
    model, criterion, batch = problem("mlp")

    class Growing:
        def __init__(self, *counts):
            self.counts = list(counts)

        def __iter__(self):
            return iter([batch] * self.counts.pop(0))

    for counts, message in [((2, 1), "gave 1 batches, the first one 2"), ((1, 2), "batch 1 of this pass differs")]:
        with pytest.raises(NondeterministicError, match=message):
            specop.objective(model, criterion, Growing(*counts), memory_budget=0).loss()


def test_data_written_into_after_the_first_pass_raises():
    model, criterion, (inputs, targets) = problem("mlp")
    inputs = inputs.clone()
    hessian = specop.objective(model, criterion, [(inputs, targets)]).hessian()
    vector = torch.ones(hessian.shape[0], dtype=torch.float64)
    hessian @ vector
    inputs.mul_(2)
    with pytest.raises(NondeterministicError, match="batch 0 was written into"):
        hessian @ vector
    fresh = specop.objective(model, criterion, [(inputs, targets)]).hessian()
    assert torch.isfinite(fresh @ vector).all()


def test_a_look_at_the_data_is_no_write():
    model, criterion, (inputs, targets) = problem("mlp")
    inputs, targets = inputs.clone(), targets.clone()
    hessian = specop.objective(model, criterion, [(inputs, targets)]).hessian()
    vector = torch.ones(hessian.shape[0], dtype=torch.float64)
    product = hessian @ vector
    # The watch itself leaves the data as they are: NumPy's look would have made them of one size forever.
    assert inputs.untyped_storage().resizable()
    inputs.mul_(1)
    assert len(np.bincount(targets.numpy())) == 3  # from now on no counter tells what NumPy writes
    for _ in range(2):
        close(hessian @ vector, product, 1e-12)
    inputs.numpy()[3, 1] += 1.0
    with pytest.raises(NondeterministicError, match="batch 0 was written into"):
        hessian @ vector


class Encoding(UserDict):
    """A mapping with attributes, like a tokenizer's batches."""

    def __getattr__(self, name):
        if name in self.data:
            return self.data[name]
        raise AttributeError(name)


@pytest.mark.parametrize("kind", ["one batch", "list", "micro"])
def test_batches_of_a_tokenizer(kind, monkeypatch):
    model, criterion, (x, y) = problem("tokens")
    weight = WEIGHTS["tokens"]
    expected = specop.objective(model, criterion, (x, y), weight=weight)
    data = Encoding(input_ids=x, labels=y, language="none")
    if kind == "list":
        data = [Encoding(input_ids=a, labels=b) for a, b in split((x, y), 7, 4)]
    objective = specop.objective(
        model,
        lambda logits, batch: criterion(logits, batch.labels),
        data,
        forward=lambda model, batch: model(batch["input_ids"]),
        weight=lambda batch: (batch["labels"] != -100).sum(),
        likelihood="categorical",
    )
    if kind == "micro":
        monkeypatch.setattr(objective._data, "limit", 3)
    assert objective.samples == 11
    v = torch.ones(objective.n).double()
    for found, other in [
        (objective.hessian(), expected.hessian()),
        (objective.ggn(), expected.ggn()),
        (objective.fisher(kind="empirical", of="samples"), expected.fisher(kind="empirical")),
    ]:
        close(found @ v, other @ v)
    close(objective.gradient(), torch.cat(list(objective.per_sample_gradients())).mean(0))


def test_objectives_of_single_batches():
    model, criterion, batch = problem("mlp")
    loader = DataLoader(TensorDataset(*batch), batch_size=4)
    for budget in (None, 0):
        whole = specop.objective(model, criterion, loader, memory_budget=budget)
        parts = whole.batches()
        assert [part.samples for part in parts] == [4, 4, 3]
        mean = sum(part.hessian().to_dense() * part.samples for part in parts) / 11
        close(mean, whole.hessian().to_dense())
