"""Keras model to float ONNX, as the documentation of tf2onnx shows it.

`python onnx_fp32.py MODEL.keras OUT.onnx`
"""

import sys

import keras
import tf2onnx

model = keras.saving.load_model(sys.argv[1])
tf2onnx.convert.from_keras(model, output_path=sys.argv[2])
