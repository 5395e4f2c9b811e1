"""Logs for TensorBoard: event files are TFRecords of TensorFlow's own Event messages.

Keras's callback needs the package tensorboard to write them; here only who reads them does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util.event_pb2 import Event

HELD_OUT = "val_"


def event_logs(keras: Any, folder: Path) -> Any:
    """A callback that writes the figures of each epoch: `folder`/train and `folder`/validation."""

    class EventLogs(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.writers = {name: _writer(folder / name) for name in ("train", "validation")}

        def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            for name, value in (logs or {}).items():
                writer = self.writers["validation" if name.startswith(HELD_OUT) else "train"]
                figure = Summary.Value(
                    tag=f"epoch_{name.removeprefix(HELD_OUT)}", simple_value=float(value)
                )
                event = Event(wall_time=time.time(), step=epoch, summary=Summary(value=[figure]))
                writer.write(event.SerializeToString())
            for writer in self.writers.values():
                writer.flush()

        def on_train_end(self, logs: Any = None) -> None:
            for writer in self.writers.values():
                writer.close()

    return EventLogs()


def _writer(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    writer = tf.io.TFRecordWriter(str(folder / f"events.out.tfevents.{now:.6f}.edgekit"))
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    return writer
