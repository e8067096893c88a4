"""MonitorCallback: curvature while a Lightning trainer trains."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from specop.errors import InvalidInputError
from specop.training import Monitor

__all__ = ["MonitorCallback"]


def _callbacks() -> Any:
    """Return the callbacks of the package that is in use: Lightning comes by two names, which do not mix."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(f"{name}.callbacks")
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise InvalidInputError("specop_torch.lightning needs Lightning: pip install lightning.")


if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    Callback = _callbacks().Callback


class MonitorCallback(Callback):
    """Records before training and after each step in which a record is due, and logs it to all loggers of the trainer.

    Numbers are logged under "curvature/", such as "curvature/lambda_max", with the number of steps. In a run of several
    processes all record where the monitor's objective is of all of them (``parallel=True``). Otherwise, and where it is
    given a function, only the first one does, and the others wait for it in the next step.

    Parameters
    ----------
    monitor : Monitor
        Monitor of the LightningModule or a part of it. Where the trainer moves the module to another device, give it a
        function: ``Monitor(lambda: specop.objective(module, criterion, data, parallel=False))``. To go on after a
        crash, pass it ``history="run.npz"`` beside Lightning's own checkpoint. Without `optimizer` or `lr` of its own
        it is given the trainer's optimizer, if there is one only.

    Examples
    --------
    >>> import lightning, specop, torch
    >>> from specop_torch.lightning import MonitorCallback
    >>> monitor = specop.training.Monitor(specop.objective(module, criterion, sample))
    >>> trainer = lightning.Trainer(callbacks=[MonitorCallback(monitor)])
    >>> trainer.fit(module, loader)
    >>> monitor.history.plot()
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the point that training begins at."""
        self._record(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record after a step, if that is due."""
        self._record(trainer)

    def _record(self, trainer: Any) -> None:
        if not trainer.is_global_zero and self.monitor.processes.count == 1:
            return
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        found = self.monitor.record(trainer.global_step, optimizer=optimizer)
        if found is not None and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(found.metrics, step=found.step)
