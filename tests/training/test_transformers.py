"""The callback in a Trainer of Hugging Face: records, logs, and bits that stay."""

import numpy as np
import pytest

import specop
from specop.training import Monitor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from torch.nn import functional as F

from specop_torch.transformers import MonitorCallback


def data(count=32):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(20, (count, 6), generator=generator)
    return [{"input_ids": row, "labels": row[0] % 2} for row in tokens]


def train(tmp_path, monitored):
    transformers.set_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=16, max_position_embeddings=8)
    model = transformers.BertForSequenceClassification(config)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        logging_steps=100,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data())
    sample = {name: torch.stack([row[name] for row in data(16)]) for name in ("input_ids", "labels")}
    objective = specop.objective(
        model,
        lambda logits, batch: F.cross_entropy(logits, batch["labels"]),
        sample,
        forward=lambda model, batch: model(input_ids=batch["input_ids"]).logits,
    )
    monitor = Monitor(objective, every=3)
    if monitored:
        trainer.add_callback(MonitorCallback(monitor, trainer))
    trainer.train()
    return [*model.state_dict().values(), torch.get_rng_state()], monitor, trainer


def test_records_are_logged_and_no_bit_changes(tmp_path):
    plain, _, _ = train(tmp_path / "plain", False)
    watched, monitor, trainer = train(tmp_path / "watched", True)
    assert all(map(torch.equal, plain, watched))
    history = monitor.history
    assert history.steps.tolist() == [0, 3, 6]
    logged = [row for row in trainer.state.log_history if "curvature/lambda_max" in row]
    assert [row["step"] for row in logged] == [0, 3, 6]
    np.testing.assert_allclose([row["curvature/lambda_max"] for row in logged], history["lambda_max"])
    # Its AdamW has no second moments before the first step; the rate falls to zero, and the limit grows.
    assert np.isnan(history["limit"][0]) and history["limit"][2] > history["limit"][1] > 3.8e4
