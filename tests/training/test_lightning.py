"""The callback in a trainer of Lightning: records, logs, and bits that stay."""

import csv
import sys
import types

import numpy as np
import pytest

import specop
from specop.training import Monitor

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning")
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import specop_torch.lightning
from specop_torch.lightning import MonitorCallback

# Lightning asks torch's trees by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, index):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(tmp_path, monitored, **options):
    torch.manual_seed(0)
    module = Module()
    x, y = torch.randn(48, 4), torch.randint(3, (48,))
    monitor = Monitor(lambda: specop.objective(module, F.cross_entropy, (x[:32], y[:32])), every=2)
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path, name=None, version="log")
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=logger,
        callbacks=[MonitorCallback(monitor)] if monitored else [],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **options,
    )
    shuffled = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    trainer.fit(module, shuffled)
    state = [*module.state_dict().values(), torch.get_rng_state()]
    state += [part for one in trainer.optimizers[0].state.values() for part in one.values()]
    return state, monitor, tmp_path / "log" / "metrics.csv"


def test_records_are_logged_and_no_bit_changes(tmp_path):
    plain, _, _ = fit(tmp_path / "plain", False)
    watched, monitor, path = fit(tmp_path / "watched", True)
    assert all(map(torch.equal, plain, watched))
    history = monitor.history
    assert history.steps.tolist() == [0, 2, 4, 6, 8]
    # The optimizer of the trainer: Adam, of which there is nothing before its first step.
    np.testing.assert_allclose(history["limit"], [np.nan, *[3800.0] * 4])
    with open(path) as file:
        rows = [row for row in csv.DictReader(file) if row.get("curvature/lambda_max")]
    assert [int(row["step"]) for row in rows] == history.steps.tolist()
    np.testing.assert_allclose([float(row["curvature/lambda_max"]) for row in rows], history["lambda_max"])


def test_steps_are_those_of_the_optimizer_where_gradients_are_accumulated(tmp_path):
    _, monitor, _ = fit(tmp_path, True, accumulate_grad_batches=3, precision="bf16-mixed")
    assert monitor.history.steps.tolist() == [0, 2] and np.isfinite(monitor.history["lambda_max"]).all()


def test_the_name_of_lightning_that_is_in_use_is_taken(monkeypatch):
    other = pytest.importorskip("pytorch_lightning")
    assert issubclass(MonitorCallback, lightning.pytorch.Callback) and not issubclass(MonitorCallback, other.Callback)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    assert specop_torch.lightning._callbacks().Callback is other.Callback


def test_all_processes_record_what_is_of_all_of_them():
    moment = types.SimpleNamespace(step=3, metrics={"curvature/loss": 1.0})
    for count, of_others in ((1, []), (2, [3])):
        recorded = []
        monitor = types.SimpleNamespace(
            processes=types.SimpleNamespace(count=count),
            record=lambda step, optimizer, kept=recorded: kept.append(step) or moment,
        )
        logged = []
        logger = types.SimpleNamespace(log_metrics=lambda metrics, step, kept=logged: kept.append(step))
        trainer = types.SimpleNamespace(is_global_zero=False, optimizers=[], global_step=3, loggers=[logger])
        MonitorCallback(monitor).on_train_start(trainer, None)
        assert recorded == of_others and logged == []
        trainer.is_global_zero = True
        MonitorCallback(monitor).on_train_start(trainer, None)
        assert recorded == [*of_others, 3] and logged == [3]
