"""Print, for each architecture of transformers that can be made small, what a product with its Hessian is worth.

    python tests/truth/architectures.py > architectures.md
    python tests/truth/architectures.py --only Llama Mamba

The list is that of the library's own tables: causal language models, text classifiers, image classifiers. Each is built
from its configuration with few and narrow layers and random weights, in float64. The truth is v'Hv from values of the
loss alone (judge.py); casts to float32 inside of a model are float64 there.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import specop
from judge import Truth, curvature, directions
from specop.errors import SpecopError

# How far along a direction of entries near one the loss is looked at, and what no right product in float32 is off by.
_REACH, _OFF = 3e-3, 1e-3
_LARGEST, _SECONDS = 400_000, 120

# What configurations call their sizes; those that a class does not know are left out.
_SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 16,
    "d_model": 16,
    "n_embd": 16,
    "dim": 16,
    "embed_dim": 8,
    "embedding_size": 16,
    "emb_dim": 16,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "n_head": 2,
    "n_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "d_kv": 8,
    "intermediate_size": 24,
    "ffn_dim": 24,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "d_ff": 24,
    "n_inner": 24,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 12,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "state_size": 4,
    "sliding_window": 8,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_labels": 3,
}


class InFloat64(TorchFunctionMode):
    """Read float32 as float64, so that values of a loss can be told apart at small steps."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: _wide(value) for name, value in (kwargs or {}).items()}
        if function is torch.Tensor.float:
            return args[0].double()
        return function(*map(_wide, args), **kwargs)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


class Predictor(nn.Module):
    """A model of the library that returns its logits, one row for each prediction."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs).logits.flatten(0, -2)


class Drawn(NamedTuple):
    """A model and one batch of data."""

    model: Predictor
    inputs: torch.Tensor
    labels: torch.Tensor


def rows() -> Iterator[tuple[str, str, Callable[[], Drawn]]]:
    """Yield (class of the model, task, function that makes it)."""
    import transformers
    from transformers.models.auto import modeling_auto as tables

    tasks = {
        "causal language model": tables.MODEL_FOR_CAUSAL_LM_MAPPING,
        "text classifier": tables.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        "image classifier": tables.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    }
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    seen: set[type] = set()
    for task, table in tasks.items():
        for config, found in table.items():
            for kind in set(found if isinstance(found, tuple) else (found,)) - seen:
                seen.add(kind)
                yield kind.__name__, task, functools.partial(small, config, kind, task)


def small(config: type, kind: type, task: str) -> Drawn:
    """Return a small model of an architecture with its data; it may raise anything."""
    made = _small_configuration(config)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in kind(made).parameters())
    if count > _LARGEST:
        raise ValueError(f"{count} parameters")
    model = Predictor(kind(made)).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # What starts at zero, such as a gate, would hide what is behind it.
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    if task == "image classifier":
        inputs = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    else:
        inputs = torch.randint(3, 37, (3, 8), generator=generator)
    with torch.no_grad():
        count, classes = model(inputs).shape
    return Drawn(model, inputs, torch.randint(0, classes, (3, count // 3), generator=generator))


def _small_configuration(config: type) -> Any:
    default = config()
    names = set(vars(default)) | set(getattr(config, "attribute_map", {}))
    chosen = {name: value for name, value in _SIZES.items() if name in names}
    chosen |= {name: 0.0 for name in names if "drop" in name and isinstance(getattr(default, name, None), float)}
    for name in ("layer_types", "layers_block_type", "mlp_layer_types"):
        if isinstance(vars(default).get(name), (list, tuple)) and "num_hidden_layers" in names:
            chosen[name] = list(getattr(default, name))[:2]
    for name, value in vars(default).items():
        if name in ("hidden_sizes", "embed_dims") and isinstance(value, (list, tuple)):
            chosen[name] = [8 * (i + 1) for i in range(len(value))]
        if name in ("depths", "num_blocks") and isinstance(value, (list, tuple)):
            chosen[name] = [1] * len(value)
    if getattr(config, "sub_configs", None):
        raise ValueError(f"a configuration of several: {', '.join(config.sub_configs)}")
    made = config(**chosen)
    made.use_cache = False
    made._experts_implementation = "eager"
    return made


def judge(drawn: Drawn) -> str:
    """Return what products are worth."""
    model = drawn.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    theta = nn.utils.parameters_to_vector(parameters).detach().clone()
    state = copy.deepcopy(dict(model.named_buffers()))

    def loss(point: np.ndarray) -> float:
        with torch.no_grad(), InFloat64():
            nn.utils.vector_to_parameters(theta + _REACH * torch.from_numpy(point), parameters)
            value = float(cross_entropy(model(drawn.inputs), drawn.labels))
            for name, buffer in model.named_buffers():
                buffer.copy_(state[name])
        return value

    try:
        truth = curvature(loss, np.zeros(len(theta)))
    except TimeoutError as error:
        return f"not judged: {error}"
    with torch.no_grad():
        nn.utils.vector_to_parameters(theta, parameters)
    return verdict(drawn, truth, len(theta))


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean over all predictions."""
    return nn.functional.cross_entropy(logits, labels.flatten())


def verdict(drawn: Drawn, truth: Truth | None, n: int) -> str:
    """Return in a word what products are worth."""
    vectors = [torch.from_numpy(v) for v in directions(n)]
    try:
        hessian = specop.objective(drawn.model, cross_entropy, (drawn.inputs, drawn.labels)).hessian()
        images = [hessian @ v for v in vectors]
    except SpecopError as error:
        return f"refused: {_short(error)}"
    except Exception as error:  # what any model may raise is a row of the table
        return f"error: {_short(error)}"
    found = _REACH**2 * np.array([float(v @ image) for v, image in zip(vectors, images, strict=True)])
    size = _REACH**2 * max(float(v.norm() * image.norm()) for v, image in zip(vectors, images, strict=True))
    if not np.isfinite(found).all():
        return "not finite"
    noted = f" ({'; '.join(hessian.notes)})" if hessian.notes else ""
    if truth is None:
        return f"a value{noted}"
    off = float(np.abs(found - truth.values).max()) / max(float(np.abs(truth.values).max()), 1e-2 * size)
    return f"{'right' if off <= max(_OFF, 10 * truth.error / truth.scale) else f'wrong: {off:.1%}'}{noted}"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}, {' '.join(str(error).split())[:150]}".replace("|", "/")


def _stop(signal_number: int, frame: Any) -> None:
    raise TimeoutError(f"more than {_SECONDS} seconds")


def main() -> None:
    """Print the table."""
    signal.signal(signal.SIGALRM, _stop)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the models to try")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    print("| model | task | parameters | specop |\n|---|---|---|---|")
    for name, task, make in rows():
        if not any(part in name for part in arguments.only):
            continue
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            # Hundreds of models warn of their configurations.
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            signal.alarm(_SECONDS)
            try:
                drawn = make()
            except Exception as error:  # it cannot be made small in this way, and is not drawn
                print(f"{name}: not drawn, {_short(error)}", file=sys.stderr, flush=True)
                counts["not drawn"] += 1
                continue
            found = judge(drawn)
            signal.alarm(0)
        counts[found.split(":")[0].split(" (")[0]] += 1
        n = sum(parameter.numel() for parameter in drawn.model.parameters() if parameter.requires_grad)
        print(f"| {name} | {task} | {n:,} | {found} |", flush=True)
    print(f"\n{', '.join(f'{count} {what}' for what, count in counts.items())}")


if __name__ == "__main__":
    main()
