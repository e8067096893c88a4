"""Models that return their own loss need no criterion, or the text says what is missing."""

import importlib

import numpy as np
import pytest

import specop
from linear_cases import HESSIAN, X, Y, batch, case, dense, each_framework
from specop.errors import InvalidInputError, MissingOutputsError


class Outputs:
    """What models of Hugging Face return."""

    def __init__(self, loss, logits):
        self.loss, self.logits = loss, logits


def own_torch():
    torch = importlib.import_module("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(3, 1).double())

        def forward(self, x, labels=None):
            z = x @ self.w
            return Outputs(None if labels is None else ((z - labels) ** 2).mean(), z)

    return Model()


def own_jax():
    nnx = importlib.import_module("flax.nnx")

    class Model(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(case("jax").array(np.zeros((3, 1))))

        def __call__(self, x, labels=None):
            z = x @ self.w
            return {"loss": None if labels is None else ((z - labels) ** 2).mean(), "logits": z}

    return Model()


def own_tensorflow():
    tf = importlib.import_module("tensorflow")

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(np.zeros((3, 1)))

        def __call__(self, x, labels=None):
            z = x @ self.w
            return Outputs(None if labels is None else tf.reduce_mean((z - labels) ** 2), z)

    return Model()


OWN = {"torch": own_torch, "jax": own_jax, "tensorflow": own_tensorflow}


def parts(framework, *places):
    return [{"x": case(framework).array(X[part]), "labels": case(framework).array(Y[part])} for part in places]


@each_framework
def test_models_that_return_their_loss_need_no_criterion(framework):
    whole, halves = parts(framework, slice(None)), parts(framework, slice(0, 4), slice(4, 8))
    read = (lambda found: found["loss"]) if framework == "jax" else (lambda found: found.loss)
    for objective in (
        specop.objective(OWN[framework](), data=whole[0]),
        specop.objective(OWN[framework](), data=halves),
        specop.objective(OWN[framework](), data=halves, forward=lambda model, batch: read(model(**batch))),
    ):
        np.testing.assert_allclose(float(objective.loss()), np.mean(Y**2), rtol=1e-12)
        np.testing.assert_allclose(dense(objective), HESSIAN, atol=1e-12)
    with pytest.raises(MissingOutputsError, match=r"forward=lambda model, batch: model\(\*\*batch\).logits"):
        objective.ggn() @ objective.gradient()


@each_framework
def test_models_without_a_loss_of_their_own_are_told_what_is_missing(framework):
    model = OWN[framework]()
    with pytest.raises(InvalidInputError, match=r"the model returned no loss for a batch of 'x': .* has 'labels'"):
        specop.objective(model, data={"x": case(framework).array(X)}).loss()
    for data in (batch(framework), [batch(framework)]):
        with pytest.raises(InvalidInputError, match=r"needs a criterion: .*model\(\*\*batch\).loss"):
            specop.objective(model, data=data).loss()


def causal(transformers):
    config = transformers.GPT2Config(
        vocab_size=7, n_positions=8, n_embd=4, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return transformers.GPT2LMHeadModel(config)


def masked(transformers):
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4
    )
    return transformers.BertForMaskedLM(config)


def adapted(transformers):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    return peft.get_peft_model(causal(transformers), settings)


# peft asks transformers for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [causal, masked, adapted])
def test_tokens_count_in_language_models_of_hugging_face_torch(make):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    model = make(transformers).double().eval()
    # The fused kernel has no second derivative for the plain calls below.
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 7, (4, 6))
    labels = ids.clone()
    labels[0, 3:], labels[2, 2:] = -100, -100
    whole = {"input_ids": ids, "labels": labels}
    batches = [{name: part[:2] for name, part in whole.items()}, {name: part[2:] for name, part in whole.items()}]
    objective = specop.objective(model, data=batches)
    # They compute the loss in float32.
    loss = model(**whole).loss
    torch.testing.assert_close(objective.loss(), loss.detach().to(objective.loss().dtype), rtol=1e-6, atol=0)
    vector = torch.ones(objective.n, dtype=torch.float64)
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradient = torch.autograd.grad(loss, own.values(), create_graph=True)
    product = torch.autograd.grad(sum(part.sum() for part in gradient), own.values())
    torch.testing.assert_close(
        objective.hessian() @ vector, torch.cat([part.flatten() for part in product]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_labels_after_tokens_of_an_adapter_are_not_counted_as_those_of_the_model_torch():
    transformers, torch, peft = map(pytest.importorskip, ("transformers", "torch", "peft"))
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(causal(transformers), settings).double().eval()
    ids = torch.randint(0, 7, (4, 6))
    labels = ids.clone()
    labels[0, 1:] = -100
    data = {"input_ids": ids, "labels": labels}
    batches = [{name: part[:2] for name, part in data.items()}, {name: part[2:] for name, part in data.items()}]
    with pytest.raises(InvalidInputError, match=r"several batches do not add up"):
        specop.objective(model, data=batches).loss()
