"""What newcomers type first, in every framework in which it can occur: it works, or the text says what to type."""

import copy
import importlib
import pickle

import numpy as np
import pytest

import specop
from cases import Case
from parity.cases import FRAMEWORKS
from specop.errors import InvalidInputError, MissingOutputsError, ParametersChangedError

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)

X, Y = np.random.default_rng(0).standard_normal((8, 3)), np.random.default_rng(1).standard_normal((8, 1))
# Of the mean squared error of X @ w, twice the mean of x x'.
HESSIAN = 2 * X.T @ X / 8


def case(framework):
    return Case(framework, np.dtype("float64"))


def squares(framework):
    """The mean squared error of a linear model, as a function of its parameters and a batch."""
    mean = case(framework).mean
    return lambda params, batch: mean((batch[0] @ params["w"] - batch[1]) ** 2)


def given(framework, **others):
    return {"w": case(framework).array(np.zeros((3, 1))), **others}


def batch(framework):
    return case(framework).array(X), case(framework).array(Y)


def dense(objective):
    hessian = objective.hessian()
    return hessian.backend.to_numpy(hessian.to_dense())


# Functions and their parameters
def with_aux(framework):
    loss = squares(framework)
    return specop.objective(lambda p, b: (loss(p, b), {"n": 8}), params=given(framework), data=batch(framework)).loss()


def with_named_loss(framework):
    loss = squares(framework)
    return specop.objective(lambda p, b: {"loss": loss(p, b)}, params=given(framework), data=batch(framework)).loss()


def criterion_with_aux(framework):
    mean = case(framework).mean
    return specop.objective(
        lambda p, b: b[0] @ p["w"],
        lambda z, y: (mean((z - y) ** 2), mean(z)),
        batch(framework),
        params=given(framework),
    ).loss()


def of_parameter(value):
    return lambda framework: specop.objective(
        squares(framework), params=given(framework, c=value), data=batch(framework)
    )


def of_numpy_alone(framework):
    return specop.objective(squares(framework), params={"w": np.zeros((3, 1))}, data=(X, Y))


def three_parts(framework):
    mean = case(framework).mean
    return specop.objective(
        lambda p, b: b[0] @ p["w"],
        lambda z, y: mean((z - y) ** 2),
        (*batch(framework), case(framework).array(np.ones(8))),
        params=given(framework),
    ).loss()


def tuple_of_batches(framework):
    x, y = batch(framework)
    return specop.objective(squares(framework), params=given(framework), data=((x[:4], y[:4]), (x[4:], y[4:]))).loss()


def one_that_takes_a_name(framework):
    return specop.objective(squares(framework), params=given(framework), data=batch(framework), select=lambda name: 1)


def a_number(framework):
    return specop.objective(squares(framework), params=given(framework), data=batch(framework), select=0)


def a_misspelled_name(framework):
    params = given(framework, c=case(framework).array(np.zeros(2)))
    return specop.objective(squares(framework), params=params, data=batch(framework), select=["w", "d"])


def a_parameter_of_another_model(framework):
    params = given(framework)
    return specop.objective(
        squares(framework), params=params, data=batch(framework), select=[params["w"], given(framework)["w"]]
    )


def a_masked_batch(framework):
    x = np.ma.masked_array(X, mask=X > 1.0)
    return specop.objective(squares(framework), params=given(framework), data=(x, Y)).loss()


REFUSED = {
    "a tuple of batches": (tuple_of_batches, r"A tuple is one batch, here of 2 parts .* pass a list of them"),
    "a predicate of the name": (one_that_takes_a_name, r"select is called with two arguments, \(name, array\)"),
    "a number of a parameter": (a_number, "select takes a pattern, .* got an item of type int"),
    "a misspelled name": (a_misspelled_name, r"select='d' matches no parameter. There are: "),
    "a parameter of another model": (
        a_parameter_of_another_model,
        r"select=an array of shape \(3, 1\) matches no param",
    ),
    "a masked array": (a_masked_batch, r"of the batch .* masked array of NumPy, .* an array of weights beside it"),
    "has_aux": (with_aux, r"got a tuple of 2.*has_aux.*lambda params, batch: fun\(params, batch\)\[0\]"),
    "a loss in a dict": (with_named_loss, r"got dict.*return that alone: lambda params, batch: .*\['loss'\]"),
    "a criterion with aux": (criterion_with_aux, r"got a tuple of 2.*lambda outputs, y: criterion\(outputs, y\)\[0\]"),
    "a Python float": (
        of_parameter(0.5),
        r"the parameter 'c' is the Python number 0.5.*(as_?tensor|asarray|Variable)\(0.5",
    ),
    "NumPy alone": (of_numpy_alone, "parameters are NumPy arrays, .*nothing shows the framework"),
    "a batch of three": (
        three_parts,
        r"fails on the batch.*called with \(outputs, batch\) where .* no pair \(x, y\), here a tuple of 3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@each_framework
def test_what_is_refused_says_what_to_type(framework, name):
    make, text = REFUSED[name]
    with pytest.raises(InvalidInputError, match=f"(?s){text}"):
        make(framework)


@pytest.mark.parametrize("value", [np.zeros(()), 1, "relu"], ids=["NumPy", "int", "str"])
@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "jax"])
def test_what_is_no_tensor_is_refused_by_name_and_kind(framework, value):
    # JAX differentiates NumPy arrays, and takes what is no array for a part of the structure.
    with pytest.raises(InvalidInputError, match=r"the parameter 'c' is (a|the) .*, in which nothing can be diff"):
        of_parameter(value)(framework)


def test_jax_takes_numpy_parameters_of_a_restored_checkpoint():
    jax = pytest.importorskip("jax")
    restored = {"w": np.zeros((3, 1))}
    for fun, data in ((squares("jax"), batch("jax")), (jax.jit(squares("jax")), (X, Y))):
        np.testing.assert_allclose(dense(specop.objective(fun, params=restored, data=data)), HESSIAN, atol=1e-12)


@each_framework
def test_small_models_have_all_of_their_eigenvalues_by_default(framework):
    hessian = specop.objective(squares(framework), params=given(framework), data=batch(framework)).hessian()
    found = specop.eigsh(hessian)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(HESSIAN), rtol=1e-10)
    with pytest.raises(InvalidInputError, match="k must be an integer from 1 to n=3, got 6"):
        specop.eigsh(hessian, k=6)
    assert len(specop.eigsh(np.eye(7)).eigenvalues) == 6
    # Exact where the sketch is of all of the matrix, and one on what it leaves out: d (H + d I)^-1.
    M = specop.nystrom_preconditioner(hessian, damping=0.1)
    np.testing.assert_allclose(
        M.backend.to_numpy(M.to_dense()) @ (HESSIAN + 0.1 * np.eye(3)), 0.1 * np.eye(3), atol=1e-6
    )


def test_ranks_are_whole_numbers():
    for found in (specop.rank(np.diag([1.0, 2.0, 0.0, 0.0])), specop.rank(np.diag(np.linspace(-1, 1, 300)), 0.5)):
        assert type(found.rank) is int and type(found.nullity) is int
        assert found.rank + found.nullity == found.n and abs(found.rank - found.estimate) <= 0.5


ONE = np.diag([1.0, 2.0, 3.0])
WORDS = {
    "rtol": lambda: specop.trace(ONE, rtol="small"),
    "rtol of a density": lambda: specop.spectral_density(ONE, rtol="small"),
    "confidence": lambda: specop.trace(ONE, confidence="high"),
    "damping": lambda: specop.effective_dimension(ONE, damping="auto"),
    "tol": lambda: specop.eigsh(ONE, 1, tol="tight"),
    "memory_budget": lambda: specop.objective(squares("torch"), params=given("torch"), data=(), memory_budget="small"),
}


@pytest.mark.parametrize("name", WORDS)
def test_text_where_a_number_belongs_is_refused_by_the_name(name):
    with pytest.raises(InvalidInputError, match=f"^{name.partition(' ')[0]} must .*(small|high|auto|tight)"):
        WORDS[name]()


# Transformations
TRANSFORMED = {
    "jax": (["jit", "vmap", "grad"], "inside jax.jit no number can be looked at"),
    "torch": (["func.vmap", "func.grad"], r"is being traced by torch.func"),
    "tensorflow": (["function"], "inside tf.function no number can be looked at"),
}


def transform(framework, name):
    found = importlib.import_module(framework)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("framework", "name"),
    [(framework, name) for framework in FRAMEWORKS for name in TRANSFORMED[framework][0]],
)
def test_first_products_inside_transformations_are_refused_and_leave_nothing(framework, name):
    hessian = specop.objective(squares(framework), params=given(framework), data=batch(framework)).hessian()
    vector = case(framework).array(np.ones(3))
    mean = case(framework).mean
    operand = case(framework).array(np.eye(3)) if name.endswith("vmap") else vector
    # TensorFlow's own wrapper of an error in traced code keeps its text.
    with pytest.raises(Exception, match=TRANSFORMED[framework][1]):
        transform(framework, name)(lambda v: mean((hessian @ v) * v))(operand)
    for _ in range(3):
        np.testing.assert_allclose(case(framework).numpy(hessian @ vector), HESSIAN.sum(1), atol=1e-12)


# Models that return their own loss
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


# Pickles and copies
def mean_squares(outputs, y):
    return ((outputs - y) ** 2).mean()


def linear_torch():
    torch = importlib.import_module("torch")
    model = torch.nn.Linear(3, 1, bias=False).double()
    return model, torch.nn.MSELoss(), lambda: model.weight.data.add_(1.0)


def linear_jax():
    nnx = importlib.import_module("flax.nnx")
    model = nnx.Linear(3, 1, use_bias=False, param_dtype=np.float64, rngs=nnx.Rngs(0))
    return model, mean_squares, lambda: nnx.update(model, nnx.State({"kernel": model.kernel[...] + 1.0}))


def linear_tensorflow():
    keras = importlib.import_module("keras")
    layer = keras.layers.Dense(1, use_bias=False, dtype="float64")
    model = keras.Sequential([keras.Input((3,), dtype="float64"), layer])
    return model, keras.losses.MeanSquaredError(dtype="float64"), lambda: layer.kernel.assign_add(np.ones((3, 1)))


LINEAR = {"torch": linear_torch, "jax": linear_jax, "tensorflow": linear_tensorflow}
REMADE = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "deepcopy": copy.deepcopy}


def products(hessian):
    return hessian.backend.to_numpy(hessian @ hessian.backend.from_host(np.ones(3), hessian.domain))


# Of Keras' own way to save a model.
keras_warning = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@keras_warning
@pytest.mark.parametrize("way", REMADE)
@each_framework
def test_objectives_and_operators_are_pickled_and_copied(framework, way):
    model, criterion, move = LINEAR[framework]()
    x, y = batch(framework)
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    objective = specop.objective(model, criterion, data)
    hessian = objective.hessian()
    products(hessian)
    made = [REMADE[way](thing) for thing in (objective, hessian, hessian + specop.identity_like(hessian))]
    again = [made[0].hessian(), made[0].ggn(), *made[1:]]
    # A model that Keras has pickled computes in float32.
    tol = 1e-6 if framework == "tensorflow" else 1e-12
    # Their model is their own: another point of this one is none of theirs.
    move()
    for number, operator in enumerate(again):
        np.testing.assert_allclose(products(operator), HESSIAN.sum(1) + (number == 3), rtol=tol)
    with pytest.raises(ParametersChangedError):
        REMADE[way](hessian)


@keras_warning
@each_framework
def test_a_criterion_that_cannot_be_pickled_is_named(framework):
    model, criterion, _ = LINEAR[framework]()
    objective = specop.objective(model, lambda outputs, y: criterion(outputs, y), batch(framework))
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"test_a_criterion_that_cannot_.*lambda"):
        pickle.dumps(objective)
    assert copy.deepcopy(objective).n == 3


# flax.linen
def linen(train_by_default):
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train=train_by_default):
            x = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False, param_dtype=np.float64)(x)
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return nn.Dense(1, use_bias=False, param_dtype=np.float64)(x)

    jax = importlib.import_module("jax")
    model = Model()
    variables = model.init(jax.random.key(0), batch("jax")[0], train=False)
    # The statistics at the start are zero and one; epsilon is 1e-5.
    return model, variables


def test_linen_modules_and_their_train_states_need_no_function_jax():
    model, variables = linen(train_by_default=False)
    optax, train_state = pytest.importorskip("optax"), importlib.import_module("flax.training.train_state")

    class State(train_state.TrainState):
        batch_stats: object = None

    state = State.create(
        apply_fn=model.apply, params=variables["params"], batch_stats=variables["batch_stats"], tx=optax.sgd(0.1)
    )
    whole = train_state.TrainState.create(apply_fn=model.apply, params=variables, tx=optax.sgd(0.1))
    with pytest.raises(InvalidInputError, match=r"params= is a TrainState, .* pass it as the model, objective\(state,"):
        specop.objective(model, mean_squares, batch("jax"), params=whole)
    restored = importlib.import_module("jax").tree.map(np.asarray, variables)
    expected = HESSIAN / (1 + 1e-5)
    for objective in (
        specop.objective(model, mean_squares, batch("jax"), params=variables),
        specop.objective(model, mean_squares, batch("jax"), params=restored),
        specop.objective(model.bind(variables), mean_squares, batch("jax")),
        specop.objective(state, mean_squares, batch("jax")),
        specop.objective(whole, mean_squares, batch("jax")),
        specop.objective(
            state, lambda z, b: mean_squares(z, b[1]), batch("jax"), forward=lambda apply, b: apply(b[0], train=False)
        ),
    ):
        assert objective.names == ("Dense_0.kernel",)
        np.testing.assert_allclose(dense(objective), expected, rtol=1e-6)
        np.testing.assert_allclose(case("jax").numpy(objective.ggn().to_dense()), expected, rtol=1e-6)
        assert list(objective.unflatten(objective.gradient())) == ["Dense_0"]


def test_linen_modules_are_told_what_is_missing_jax():
    model, variables = linen(train_by_default=True)
    with pytest.raises(InvalidInputError, match=r"Model does not hold its parameters: .*params=variables"):
        specop.objective(model, mean_squares, batch("jax"))
    for params in (variables, variables["params"]):
        with pytest.raises(InvalidInputError, match=r"forward=lambda apply, batch: apply\(batch\[0\], train=False\)"):
            specop.objective(model, mean_squares, batch("jax"), params=params).loss()
