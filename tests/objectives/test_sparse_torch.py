"""Sparse tensors of torch as buffers, attributes and data: the same matrices as of their dense twins."""

import pytest
import scipy.sparse

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError, NonFiniteError, ParametersChangedError
from torch_cases import close, exact, labels, operator

# torch says so at the first one of a process.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

LAYOUTS = {
    "coo": torch.Tensor.to_sparse,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
}
each_layout = pytest.mark.parametrize("sparse", LAYOUTS.values(), ids=LAYOUTS)


class Graph(nn.Module):
    """One graph convolution: nodes are samples, mixed by the adjacency that is a buffer or an attribute."""

    def __init__(self, adjacency, is_buffer=True):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3).double()
        if is_buffer:
            self.register_buffer("adjacency", adjacency)
        else:
            self.adjacency = adjacency

    def forward(self, x):
        return self.adjacency @ torch.tanh(self.layer(x))


class Features(nn.Module):
    """A network whose inputs may be sparse."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Parameter(torch.randn(4, 3).double())
        self.last = nn.Parameter(torch.randn(3, 3).double())
        self.layout = None

    def forward(self, x):
        assert self.layout is None or x.layout is self.layout
        return torch.tanh(x @ self.first) @ self.last


def adjacency():
    return torch.eye(6).double() + torch.eye(6).double().roll(1, 0)


def features():
    torch.manual_seed(2)
    x = torch.randn(6, 4).double()
    return torch.where(x > 0.3, x, 0.0)


@each_layout
@pytest.mark.parametrize("is_buffer", [True, False], ids=["buffer", "attribute"])
def test_a_sparse_adjacency(sparse, is_buffer):
    torch.manual_seed(3)
    batch = torch.randn(6, 3).double(), labels(6)
    _, gradient, hessian = exact(Graph(adjacency()), F.cross_entropy, batch)
    objective = specop.objective(Graph(sparse(adjacency()), is_buffer), F.cross_entropy, batch)
    close(objective.gradient(), gradient)
    # The second column comes from what the first one left.
    close(objective.hessian().to_dense(), hessian)


@each_layout
@pytest.mark.parametrize("sizes", [(6,), (4, 2)])
@pytest.mark.parametrize("budget", [None, 0])
def test_sparse_data(sparse, sizes, budget):
    x, y = features(), labels(6)
    batches = [(sparse(part), some) for part, some in zip(x.split(sizes), y.split(sizes), strict=True)]
    objective = specop.objective(Features(), F.cross_entropy, Loader(batches), memory_budget=budget)
    close(objective.hessian().to_dense(), exact(Features(), F.cross_entropy, (x, y))[2])
    assert objective.samples == 6


@each_layout
@pytest.mark.parametrize("kind", ["ggn", "fisher", "empirical", "jacobian"])
def test_other_matrices_of_sparse_data(sparse, kind):
    x, y = features(), labels(6)
    found, expected = (
        operator(specop.objective(Features(), F.cross_entropy, (data, y)), kind).to_dense() for data in (sparse(x), x)
    )
    close(found, expected)


@each_layout
def test_samples_of_sparse_data(sparse):
    x, y = features(), labels(6)
    model = Features()
    # Parts of it are of the same layout, on which kernels depend.
    model.layout = sparse(x).layout
    objective = specop.objective(model, F.cross_entropy, (sparse(x), y))
    rows = torch.cat(list(objective.per_sample_gradients()))
    for i, row in enumerate(rows):
        close(row, exact(Features(), F.cross_entropy, (x[i : i + 1], y[i : i + 1]))[1])
    some = [4, 1]
    close(objective.subset(some).hessian().to_dense(), exact(Features(), F.cross_entropy, (x[some], y[some]))[2])


@each_layout
def test_writes_into_sparse_buffers_and_data_are_seen(sparse):
    model, batch = Graph(sparse(adjacency())), (torch.ones(6, 3).double(), labels(6))
    H = specop.objective(model, F.cross_entropy, batch).hessian()
    H @ torch.ones(12).double()
    written = model.adjacency._values() if model.adjacency.layout is torch.sparse_coo else model.adjacency.values()
    written.mul_(2)
    with pytest.raises(ParametersChangedError):
        H @ torch.ones(12).double()

    x = sparse(features())
    objective = specop.objective(Features(), F.cross_entropy, (x, labels(6)))
    objective.loss()
    (x._values() if x.layout is torch.sparse_coo else x.values()).mul_(2)
    with pytest.raises(specop.errors.NondeterministicError, match="written into"):
        objective.loss()


def test_a_sparse_buffer_that_is_not_finite_is_named():
    model = Graph((adjacency() / 0).to_sparse())
    with pytest.raises(NonFiniteError, match="adjacency"):
        specop.objective(model, F.cross_entropy, (torch.ones(6, 3).double(), labels(6))).loss()


def test_sparse_parameters_are_refused_by_name():
    x = torch.ones(6, 3).double()

    def loss(params, batch):
        return ((params["adjacency"] @ (batch @ params["w"])) ** 2).mean()

    params = {"w": torch.ones(3, 2).double(), "adjacency": adjacency().to_sparse()}
    with pytest.raises(InvalidInputError, match=r"'adjacency' is sparse.*leave it out by select="):
        specop.objective(loss, params=params, data=x)
    close(specop.objective(loss, params=params, data=x, select="w").loss(), torch.tensor(36.0).double())

    model = Graph(adjacency())
    model.register_parameter("sparse", nn.Parameter(adjacency().to_sparse()))
    with pytest.raises(InvalidInputError, match="'sparse' is sparse"):
        specop.objective(model, F.cross_entropy, (x, labels(6)))


def test_sparse_vectors_are_refused_by_name():
    H = specop.objective(Features(), F.cross_entropy, (features(), labels(6))).hessian()
    for call in (lambda v: H @ v, lambda v: specop.solve(H, v)):
        with pytest.raises(InvalidInputError, match=r"is sparse. Pass x.to_dense\(\)"):
            call(torch.ones(21).double().to_sparse())


def test_scipy_matrices_among_the_data_are_refused_by_name():
    data = (scipy.sparse.csr_matrix(features().numpy()), labels(6))
    with pytest.raises(InvalidInputError, match="holds a csr_matrix of float64, which was passed on as it is"):
        specop.objective(Features(), F.cross_entropy, data).loss()


class Loader:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)
