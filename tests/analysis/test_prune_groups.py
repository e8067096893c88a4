"""Groups of weights: what goes together with a filter, and what stays."""

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS
from parity.cases import objective as parity
from prune_cases import TORCH
from specop.errors import InvalidInputError

pytestmark = pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_outputs_stay_unless_they_are_let_go(framework):
    objective = parity(framework, "mlp", "float64")
    names = list(objective.shapes)
    weights = [name for name in names if len(objective.shapes[name]) == 2]

    def layers_with(**options):
        return set(specop.analysis.prune(objective, 0.3, "magnitude", groups="columns", steps=1, **options).layers)

    inner = layers_with()
    assert weights[-1] not in inner and set(weights[:-1]) <= inner
    assert layers_with(exclude=()) == set(names)
    assert weights[0] not in layers_with(exclude=[weights[0]]) and weights[-1] in layers_with(exclude=[weights[0]])
    # The other axis holds inputs. Single weights are no outputs.
    assert weights[-1] in specop.analysis.saliency(objective, "magnitude", groups="rows").labels[-1]
    assert weights[-1] in specop.analysis.prune(objective, 0.3, "magnitude").layers
    with pytest.raises(InvalidInputError, match="exclude='head' matches no parameter"):
        specop.analysis.saliency(objective, exclude="head")
    with pytest.raises(InvalidInputError, match=r"nothing is left that may go without .* exclude=\(\)"):
        specop.analysis.saliency(objective, exclude=weights)


@TORCH
def test_a_filter_goes_with_its_bias_and_its_normalization():
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 3),
    )
    model = model.double().eval()
    data = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    objective = specop.objective(model, nn.functional.cross_entropy, data)
    result = specop.analysis.prune(objective, 0.5, "obd", groups="rows", trust=None, steps=2)
    model.load_state_dict(result.parameters, strict=False)
    images, lost = data[0], 0
    for first in (0, 3):
        convolution, norm = model[first : first + 2]
        gone = (convolution.weight == 0).flatten(1).all(1)
        lost += int(gone.sum())
        # Biases of the normalization were zero, and are there with their filters.
        assert (convolution.weight[~gone] != 0).all() and not gone.all()
        images = norm(convolution(images))
        assert (images[:, gone] == 0).all() and (images[:, ~gone] != 0).any()
        images = images.relu()
    assert lost > 0
    assert set(result.layers) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "4.weight", "4.bias"}
    assert (model[8].weight != 0).all()


def two_convolutions(order, flow):
    """Two convolutions of six filters and two norms, named in an order and connected by a flow."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            made = {
                "conv1": nn.Conv2d(1, 6, 3, padding=1, bias=False),
                "conv2": nn.Conv2d(6 if flow != "sum" else 1, 6, 3, padding=1, bias=False),
                "norm1": nn.BatchNorm2d(6),
                "norm2": nn.BatchNorm2d(6),
                "out": nn.Linear(6, 3),
            }
            for name in order:
                self.add_module(name, made[name])
            # Alike, so that magnitudes choose filters of both.
            for name in ("conv1", "conv2"):
                nn.init.normal_(made[name].weight)

        def forward(self, x):
            if flow == "sum":
                x = self.norm2(self.norm1(self.conv1(x) + self.conv2(x)).relu())
            elif flow == "residual":
                x = self.norm1(self.conv1(x)).relu()
                x = self.norm2(x + self.conv2(x))
            else:
                x = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
            return self.out(x.relu().mean((2, 3)))

    torch.manual_seed(0)
    model = Network().double().train()
    data = torch.randn(12, 1, 5, 5).double(), torch.arange(12) % 3
    model(data[0])
    return specop.objective(model.eval(), nn.functional.cross_entropy, data)


@TORCH
@pytest.mark.parametrize(
    ("flow", "partners"),
    [
        ("chain", {"norm1": "conv1", "norm2": "conv2"}),
        ("residual", {"norm1": "conv1", "norm2": None}),
        ("sum", {"norm1": None, "norm2": None}),
    ],
)
@pytest.mark.parametrize(
    "order",
    [
        ("conv1", "norm1", "conv2", "norm2", "out"),
        ("conv1", "conv2", "norm1", "norm2", "out"),
        ("conv1", "conv2", "norm2", "norm1", "out"),
        ("norm2", "norm1", "out", "conv2", "conv1"),
    ],
    ids=lambda order: " ".join(order),
)
def test_a_filter_goes_with_the_norm_that_scales_it_in_whatever_order_they_are_named(order, flow, partners):
    objective = two_convolutions(order, flow)
    result = specop.analysis.prune(objective, 0.5, "magnitude", groups="rows", trust=None)
    kept = {name: result.mask[where].reshape(objective.shapes[name]) for name, where in objective.slices.items()}
    assert not any(kept[f"conv{i}.weight"].all() for i in (1, 2))
    for norm, convolution in partners.items():
        rows = np.ones(6, bool) if convolution is None else kept[f"{convolution}.weight"].reshape(6, -1).any(axis=1)
        for part in ("weight", "bias"):
            np.testing.assert_array_equal(kept[f"{norm}.{part}"], rows)


@pytest.mark.parametrize("framework", ["jax"])
def test_biases_of_a_flat_dict_stay_where_it_does_not_tell_whose_they_are(framework):
    pytest.importorskip(framework)
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(8, 4))), jnp.asarray(rng.normal(size=(8, 2)))
    params = {"b1": np.ones(4), "b2": np.ones(4), "w1": rng.normal(size=(4, 4)), "w2": rng.normal(size=(4, 4))}
    params |= {"b3": np.ones(2), "w3": rng.normal(size=(4, 2))}

    def outputs(p, batch):
        return jnp.tanh(jnp.tanh(batch[0] @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]) @ p["w3"] + p["b3"]

    objective = specop.objective(
        outputs, lambda z, y: jnp.mean((z - y) ** 2), (x, y), params={k: jnp.asarray(v) for k, v in params.items()}
    )
    result = specop.analysis.prune(objective, 0.3, "magnitude", groups="columns", trust=None)
    assert all(result.mask[objective.slices[name]].all() for name in ("b1", "b2", "b3"))
    assert not result.mask.all()
