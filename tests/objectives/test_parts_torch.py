"""Parts of a model: selections, frozen and unused parameters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn

import specop
from specop.errors import InvalidInputError
from torch_cases import close, exact, principal, problem, split, spy

SELECTIONS = {
    "pattern": lambda model: "*.weight",
    "module name": lambda model: "qkv",
    "parameter name": lambda model: "norm.bias",
    "list": lambda model: ["head", "embedding.*"],
    "module": lambda model: model.feed,
    "predicate": lambda model: lambda name, tensor: tensor.ndim == 1,
    "parameter": lambda model: model.qkv.weight,
    "parameters": lambda model: [model.qkv.weight, model.head.bias],
}


@pytest.mark.parametrize("kind", SELECTIONS)
def test_a_selection_is_a_principal_block(kind):
    model, criterion, batch = problem("transformer")
    full = specop.objective(model, criterion, batch)
    select = SELECTIONS[kind](model)
    hessian = full.hessian().to_dense()
    for part in (specop.objective(model, criterion, batch, select=select), full.restrict(select)):
        assert 0 < part.n < full.n and set(part.names) < set(full.names)
        close(part.hessian().to_dense(), principal(full, hessian, part.names))
        assert len(part.gradient()) == part.n


def test_operators_restricted_to_coordinates():
    model, criterion, batch = problem("mlp")
    H = specop.objective(model, criterion, batch).hessian()
    indices = torch.tensor([4, 1, 20])
    close(specop.restrict(H, indices.numpy()).to_dense(), H.to_dense()[indices][:, indices])


def test_a_selection_that_matches_nothing_names_what_there_is():
    model, criterion, batch = problem("mlp")
    for select in ("layer4.*", [], lambda name, tensor: False, nn.Linear(2, 2), torch.ones(3)):
        with pytest.raises(InvalidInputError, match=r"matches no parameter. There are: 0.weight, 0.bias, 2.weight"):
            specop.objective(model, criterion, batch, select=select)
    with pytest.raises(InvalidInputError, match="a list of patterns or parameters; got an item of type int"):
        specop.objective(model, criterion, batch, select=[3])


def test_tied_weights_count_once():
    model, criterion, batch = problem("tied")
    assert specop.objective(model, criterion, batch).names == ("embedding.weight", "mix.weight", "mix.bias")


class Decoder(nn.Module):
    """Named as large language models are: the table of words is that of the decoder's inputs and of the head."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(5, 4)
        self.decoder = nn.ModuleDict({"words": self.shared, "block": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, x):
        return self.head(self.decoder["block"](self.shared(x)))


@pytest.mark.parametrize("name", ["head", "head.weight", "decoder", "decoder.w*", "shared"])
def test_a_tied_parameter_goes_by_each_of_its_names(name):
    model, x = Decoder(), torch.arange(5)
    expected = ("shared.weight", "decoder.block.weight", "decoder.block.bias")[: 3 if name == "decoder" else 1]
    objective = specop.objective(model, nn.functional.cross_entropy, (x, x), select=name)
    assert objective.names == expected
    whole = specop.objective(model, nn.functional.cross_entropy, (x, x))
    assert whole.restrict(name).names == expected
    if name in ("head", "decoder"):
        given = specop.objective(model, nn.functional.cross_entropy, (x, x), select=model.get_submodule(name))
        assert given.names == expected


class Pair(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x):
        return torch.tanh(x @ self.a) @ self.b


def pair_of(make):
    whole = torch.arange(18.0).reshape(3, 6) / 9
    return Pair(*make(whole))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda whole: (whole[:, :3], whole[:, :3]), r"'a' and 'b' lie in the same memory.*b\.weight = a\.weight"),
        (lambda whole: (whole[:, :3], whole[:, 2:5]), "'a' and 'b' lie in the same memory"),
        (lambda whole: (whole[:, :3], whole[:1, 5:].expand(3, 3)), "'b' of shape .* has entries in the same memory"),
        (lambda whole: (whole[:, :3], whole[:, 3:]), None),
        (lambda whole: (whole[:, :3], whole[:, :3].clone().T), None),
    ],
    ids=["tied by data", "overlapping", "expanded", "columns of one matrix", "apart"],
)
def test_parameters_in_the_same_memory_are_refused_by_name(make, message):
    model, batch = pair_of(make), (torch.ones(4, 3), torch.zeros(4, 3))
    if message is None:
        assert specop.objective(model, nn.functional.mse_loss, batch).n == 18
        return
    with pytest.raises(InvalidInputError, match=message):
        specop.objective(model, nn.functional.mse_loss, batch)


def test_frozen_parameters_are_left_out():
    model, criterion, batch = problem("mlp")
    model[0].requires_grad_(False)
    objective = specop.objective(model, criterion, batch)
    assert objective.names == ("2.weight", "2.bias")
    close(objective.hessian().to_dense(), exact(model, criterion, batch)[2])


def test_selected_frozen_parameters_are_zero_rows():
    model, criterion, batch = problem("mlp")
    model[0].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"2 selected parameters are frozen, such as '0.weight'.*requires_grad_\(\)"):
        objective = specop.objective(model, criterion, batch, select="*")
    H, gradient = objective.hessian().to_dense(), objective.gradient()
    assert H.shape == (31, 31) and not H[:16].any() and not H[:, :16].any() and not gradient[:16].any()
    close(H[16:, 16:], exact(model, criterion, batch)[2])


@pytest.mark.parametrize("budget", [None, 0])
def test_unused_parameters_are_zero_rows(budget):
    model, criterion, batch = problem("mlp")
    gradient, hessian = exact(model, criterion, batch)[1:]
    model.register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    objective = specop.objective(model, criterion, batch, memory_budget=budget)
    at = objective.names.index("unused")
    used = [name for name in objective.names if name != "unused"]
    H = objective.hessian()
    for _ in range(2):
        dense = H.to_dense()
        close(principal(objective, dense, used), hessian)
        assert at == 0 and not dense[:2].any() and not dense[:, :2].any()
    close(objective.gradient()[2:], gradient)


def test_a_linear_loss_has_no_curvature():
    objective = specop.objective(lambda p, _: p.sum(), params=torch.ones(3))
    H = objective.hessian()
    for _ in range(2):
        assert not (H @ torch.ones(3)).any()


# --- Blocks -----------------------------------------------------------------------------------------------------------

CURVATURES = {
    "hessian": lambda objective: objective.hessian(),
    "ggn": lambda objective: objective.ggn(),
    "mc": lambda objective: objective.fisher(kind="mc", draws=2),
    "empirical": lambda objective: objective.fisher(kind="empirical", of="samples"),
}


def masked(objective, matrix, groups):
    """The matrix with zeros between parameters of different groups of names."""
    numbers = {name: number for number, names in enumerate(groups) for name in names}
    block = torch.cat([torch.full((size,), numbers[name]) for name, size in sizes(objective).items()])
    return torch.where(block[:, None] == block[None, :], matrix, 0.0)


def sizes(objective):
    return {name: value.numel() for name, value in objective.unflatten(objective.theta).items()}


@pytest.mark.parametrize("budget", [2**30, 0, "some kept"])
@pytest.mark.parametrize("kind", CURVATURES)
def test_block_diagonal(kind, budget):
    model, criterion, batch = problem("mlp")
    batches = split(batch, 5, 4, 2)
    whole = specop.objective(model, criterion, batches)
    if budget == "some kept":
        budget = CURVATURES[kind](whole).plan().bytes - 1
    objective = specop.objective(model, criterion, batches, memory_budget=budget)
    B = CURVATURES[kind](objective).block_diagonal()
    assert B.names == (("0.weight", "0.bias"), ("2.weight", "2.bias"))
    assert B.is_symmetric and B.is_psd is (None if kind == "hessian" else True) and B.samples == 11
    expected = masked(whole, CURVATURES[kind](whole).to_dense(), B.names)
    for columns in torch.randn(2, objective.n, 3).double():
        close(B @ columns, expected @ columns)


@pytest.mark.parametrize("kind", CURVATURES)
def test_blocks_of_ones_own(kind):
    model, criterion, batch = problem("transformer")
    objective = specop.objective(model, criterion, batch)
    A = CURVATURES[kind](objective)
    blocks = ["*.weight", [model.norm.bias, "feed.bias"], ["qkv.bias", "head.bias"]]
    B = A.block_diagonal(blocks)
    V = torch.randn(objective.n, 3).double()
    close(B @ V, masked(objective, A.to_dense(), B.names) @ V)
    for broken, message in [
        (["*.weight", "norm"], r"must be disjoint, but 'norm.weight' is in more than one"),
        (["*.weight"], r"cover all parameters, but 4 are in none, such as 'norm.bias'.*restrict"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            A.block_diagonal(broken)


def test_blocks_share_one_linearization(monkeypatch):
    model, criterion, batch = problem("transformer")
    recorded = spy(monkeypatch)
    B = specop.objective(model, criterion, split(batch, 6, 5)).hessian().block_diagonal()
    v = torch.ones(B.shape[0]).double()
    B @ v, B @ v
    assert len(B.names) > 4 and len(recorded) == 2
    # Without memory for it, once a batch in each pass.
    recorded.clear()
    B = specop.objective(model, criterion, split(batch, 6, 5), memory_budget=0).hessian().block_diagonal()
    B @ v
    made = len(recorded)
    B @ v
    assert len(recorded) == made + 2


@pytest.mark.parametrize("kind", CURVATURES)
def test_coupling(kind):
    model, criterion, batch = problem("transformer")
    objective = specop.objective(model, criterion, batch)
    A = CURVATURES[kind](objective)
    C = A.coupling("qkv", [model.feed.weight, "head"])
    places = dict(zip(objective.names, torch.arange(objective.n).split(list(sizes(objective).values())), strict=True))
    rows = torch.cat([places["qkv.weight"], places["qkv.bias"]])
    columns = torch.cat([places["feed.weight"], places["head.weight"], places["head.bias"]])
    expected = A.to_dense()[rows][:, columns]
    assert C.shape == tuple(expected.shape)
    close(C.to_dense(), expected)
    close(C.T.to_dense(), expected.T)
    same = A.coupling("qkv", "qkv")
    assert same.is_symmetric and same.is_psd is A.is_psd
    close(same.to_dense(), CURVATURES[kind](objective.restrict("qkv")).to_dense())
    with pytest.raises(InvalidInputError, match="no parameter structure"):
        C.unflatten(torch.ones(len(rows)).double())


def test_an_adapter_is_an_ordinary_selection():
    model, criterion, batch = problem("lora")
    objective = specop.objective(model, criterion, batch)
    assert objective.names == ("0.A", "0.B", "2.A", "2.B")
    assert objective.restrict("*.A").names == ("0.A", "2.A")
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.B.zero_()
    # Where B is zero, A has neither gradient nor curvature of its own, and the Hessian has negative eigenvalues.
    part = objective.restrict("*.A")
    assert not part.gradient().any() and not part.hessian().to_dense().any() and not part.ggn().to_dense().any()
    H = objective.hessian()
    assert H.coupling("*.A", "*.B").to_dense().norm() > 1e-3
    assert torch.linalg.eigvalsh(H.to_dense())[0] < -1e-4


@settings(max_examples=25)
@given(data=st.data())
def test_splits_and_selections_change_nothing(data):
    model, criterion, batch = problem("mlp")
    whole = specop.objective(model, criterion, batch)
    cuts = sorted(data.draw(st.sets(st.integers(1, 10), max_size=4)))
    lengths = [b - a for a, b in zip([0, *cuts], [*cuts, 11], strict=True)]
    names = data.draw(st.sets(st.sampled_from(whole.names), min_size=1))
    part = specop.objective(
        model,
        criterion,
        split(batch, *lengths),
        select=sorted(names),
        memory_budget=data.draw(st.sampled_from([0, 2000, 2**30])),
    )
    kind = data.draw(st.sampled_from(sorted(CURVATURES)))
    expected = principal(whole, CURVATURES[kind](whole).to_dense(), part.names)
    A, V = CURVATURES[kind](part), torch.eye(part.n, 2).double() + 1
    for _ in range(2):
        close(A @ V, expected @ V, 1e-12)
