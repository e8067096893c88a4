"""MonitorCallback: curvature while a model of Keras is fitted."""

from __future__ import annotations

from typing import Any

import keras

from specop.results import Moment
from specop.training import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Records before training and after each step in which a record is due, and puts it into Keras' own logs.

    Numbers stand under "curvature/", such as "curvature/lambda_max", in the logs of the batch and in those of an epoch
    with a record, the latest one: `fit` returns them, and callbacks behind this one in the list, such as CSVLogger and
    TensorBoard, write them.

    Parameters
    ----------
    monitor : Monitor
        Monitor of the model that is fitted. To go on after a crash, pass it ``history="run.npz"`` beside Keras' own
        checkpoint. Without `optimizer` or `lr` of its own it is given the model's optimizer.

    Examples
    --------
    >>> import keras, specop
    >>> from specop_tensorflow.keras import MonitorCallback
    >>> monitor = specop.training.Monitor(specop.objective(model, model.loss, sample))
    >>> model.fit(x, y, callbacks=[MonitorCallback(monitor), keras.callbacks.CSVLogger("log.csv")])
    >>> monitor.history.plot()
    """

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor
        self._latest: Moment | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Record the point that training begins at."""
        self._record({})

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record after a step, if that is due."""
        self._record({} if logs is None else logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the latest record of the epoch into its logs."""
        if self._latest is not None and logs is not None:
            logs.update(self._latest.metrics)
        self._latest = None

    def _record(self, logs: dict[str, Any]) -> None:
        optimizer = self.model.optimizer
        found = self.monitor.record(int(optimizer.iterations), optimizer=optimizer)
        if found is not None:
            self._latest = found
            logs.update(found.metrics)
