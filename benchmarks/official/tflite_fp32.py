"""Keras model to float TFLite, as the documentation of TFLiteConverter shows it.

`python tflite_fp32.py MODEL.keras OUT.tflite`
"""

import sys
from pathlib import Path

import keras
import tensorflow as tf

model = keras.saving.load_model(sys.argv[1])
converter = tf.lite.TFLiteConverter.from_keras_model(model)
Path(sys.argv[2]).write_bytes(converter.convert())
