"""Two exports, one TensorFlow: `python _export_five.py MODEL.keras ROWS.npz WORKSPACE`."""

import sys

import edgekit
from edgekit.toolchain.client import open_toolchain

model, rows, workspace = sys.argv[1:]
with open_toolchain():
    edgekit.export(source=model, samples=rows, output=workspace)
    edgekit.export(source=workspace, to=("tflite", "onnx"), precision=("int8",))
