"""Keras model to a SavedModel, from which the tf2onnx command line starts.

`python saved_model.py MODEL.keras FOLDER`
"""

import sys

import keras

keras.saving.load_model(sys.argv[1]).export(sys.argv[2])
