"""MonitorCallback: curvature while a Trainer of Hugging Face trains."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback

from specop.training import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):
    """Records before training and after each step in which a record is due, and logs it by ``trainer.log``.

    Numbers are logged under "curvature/", such as "curvature/lambda_max": they stand in ``trainer.state.log_history``
    and go wherever ``report_to`` says. In a run of several processes all record where the monitor's objective is of all
    of them (``parallel=True``). Otherwise, and where it is given a function, only the first one does.

    Parameters
    ----------
    monitor : Monitor
        Monitor of the model that is trained. Most models are called with the whole batch:
        ``specop.objective(model, criterion, data, forward=lambda model, batch: model(**batch).logits)``. To go on after
        a crash, pass it ``history="run.npz"`` beside the trainer's own checkpoint. Without `optimizer` or `lr` of its
        own it is given the trainer's optimizer.
    trainer : transformers.Trainer
        The trainer, whose ``log`` is used.

    Examples
    --------
    >>> import specop, transformers
    >>> from specop_torch.transformers import MonitorCallback
    >>> trainer = transformers.Trainer(model, arguments, train_dataset=data)
    >>> monitor = specop.training.Monitor(specop.objective(model, criterion, sample, forward=forward))
    >>> trainer.add_callback(MonitorCallback(monitor, trainer))
    >>> trainer.train()
    >>> monitor.history.plot()
    """

    def __init__(self, monitor: Monitor, trainer: Trainer) -> None:
        self.monitor = monitor
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the point that training begins at."""
        self._record(state, kwargs.get("optimizer"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record after a step, if that is due."""
        self._record(state, kwargs.get("optimizer"))

    def _record(self, state: Any, optimizer: Any) -> None:
        if not state.is_world_process_zero and self.monitor.processes.count == 1:
            return
        found = self.monitor.record(state.global_step, optimizer=optimizer)
        if found is not None and state.is_world_process_zero:
            self.trainer.log(found.metrics)
