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
torchmetrics = pytest.importorskip("torchmetrics")
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


class Step(Module):
    """Its loss is its own: with a metric, a list of outputs, batches that a hook alters, or steps by itself."""

    def __init__(self, *, is_manual=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.mean, self.kept = torchmetrics.MeanMetric(), []
        self.automatic_optimization = not is_manual

    def training_step(self, batch, index):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.mean(loss)
        self.kept.append(loss.detach())
        self.log("mean", self.mean, on_step=True, on_epoch=True)
        self.log_dict({"loss": loss})
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss


class Altered(Step):
    def on_after_batch_transfer(self, batch, index):
        return 2 * batch[0] + 1, batch[1]


def trainer_of(**options):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return lightning.Trainer(max_epochs=2, accelerator="cpu", **{**quiet, **options})


def samples():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(24, 4, generator=generator), torch.randint(3, (24,), generator=generator)


def stepping(module, data, forward=lambda model, batch: model.training_step(batch, 0)):
    return specop.objective(module, data=data, forward=forward)


def gradient_of(module, x, y):
    """The gradient of the loss of all samples by torch alone."""
    found = torch.autograd.grad(F.cross_entropy(module.layers(x), y), list(module.layers.parameters()))
    return torch.cat([one.reshape(-1) for one in found])


@pytest.mark.filterwarnings("ignore:.*isn't attached to a Trainer:UserWarning", "ignore:.*self.trainer:UserWarning")
def test_a_training_step_is_a_loss_that_logs_nothing(tmp_path):
    """Before training, in it and after it; metrics and what it keeps stay as they were."""
    torch.manual_seed(0)
    x, y = samples()
    loader = DataLoader(TensorDataset(x, y), batch_size=8)

    def check(module):
        kept, metric = list(module.kept), {name: getattr(module.mean, name).clone() for name in module.mean._defaults}
        objective = stepping(module, loader)
        torch.testing.assert_close(objective.gradient(), gradient_of(module, x, y), rtol=1e-5, atol=1e-6)
        objective.hessian() @ objective.theta
        assert len(module.kept) == len(kept)
        assert all(torch.equal(getattr(module.mean, name), value) for name, value in metric.items())

    class Look(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            check(pl_module)

    logged = []
    module = Step()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    check(module)
    for number, callbacks in enumerate(([], [Look()])):
        module.load_state_dict(state)
        logger = lightning.pytorch.loggers.CSVLogger(tmp_path, name=None, version=str(number))
        trainer_of(logger=logger, callbacks=callbacks, log_every_n_steps=1).fit(module, loader)
        logged.append((tmp_path / str(number) / "metrics.csv").read_text())
    check(module)
    assert logged[0] == logged[1]


def test_steps_that_optimize_by_themselves_are_refused():
    module = Step(is_manual=True)
    data = DataLoader(TensorDataset(*samples()), batch_size=8)
    text = r"automatic_optimization=False.*forward=lambda model, batch"
    for _ in range(2):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stepping(module, data).gradient()
        trainer_of().fit(module, data)


@pytest.mark.filterwarnings("ignore:.*self.trainer:UserWarning")
def test_hooks_that_alter_batches_are_called_or_refused():
    module, (x, y) = Altered(), samples()
    text = (
        r"Altered.on_after_batch_transfer alters .*model.training_step\(model.on_after_batch_transfer\(batch, 0\), 0\)"
    )
    for made in (lambda: specop.objective(module, F.cross_entropy, (x, y)), lambda: stepping(module, (x, y))):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            made().gradient()

    def forward(model, batch):
        return model.training_step(model.on_after_batch_transfer(batch, 0), 0)

    right = gradient_of(module, 2 * x + 1, y)
    torch.testing.assert_close(stepping(module, (x, y), forward).gradient(), right, rtol=1e-5, atol=1e-6)
    assert "on_after_batch_transfer" not in vars(module)
    module.on_after_batch_transfer = lambda batch, index: batch
    found = specop.objective(module, F.cross_entropy, (2 * x + 1, y)).gradient()
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)


def test_what_lightning_puts_around_modules_and_optimizers_is_seen_through():
    x, y = samples()
    module = Step()
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    objective = specop.objective(wrapped, F.cross_entropy, fabric.setup_dataloaders(DataLoader(TensorDataset(x, y), 8)))
    torch.testing.assert_close(objective.gradient(), gradient_of(module, x, y), rtol=1e-5, atol=1e-6)
    inner = torch.optim.SGD(module.parameters(), lr=0.1)
    for around in (optimizer, lightning.pytorch.core.optimizer.LightningOptimizer(inner)):
        assert specop.landscape.stability(objective, around).limit == pytest.approx(20.0)


def test_a_data_module_is_told_from_its_loaders():
    with pytest.raises(specop.errors.InvalidInputError, match=r"got LightningDataModule.*data.train_dataloader\(\)"):
        specop.objective(Step(), F.cross_entropy, lightning.LightningDataModule())
