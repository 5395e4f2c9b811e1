"""Keras model to int8 TFLite with float inputs and outputs, as the post-training guide shows it.

`python tflite_int8.py MODEL.keras ROWS.npz OUT.tflite`
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

model = keras.saving.load_model(sys.argv[1])
rows = np.load(sys.argv[2])["x"]


def representative_dataset():
    for row in rows:
        yield [row[np.newaxis]]


converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = representative_dataset
Path(sys.argv[3]).write_bytes(converter.convert())
