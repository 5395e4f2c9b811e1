"""Float ONNX to int8 ONNX with onnxruntime, pre-processed as its guide asks, all else default.

`python onnx_int8.py FP32.onnx ROWS.npz OUT.onnx`
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

source, samples, target = sys.argv[1:]


class Rows(CalibrationDataReader):
    def __init__(self):
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        self.feeds = ({name: row[np.newaxis]} for row in np.load(samples)["x"])

    def get_next(self):
        return next(self.feeds, None)


with tempfile.TemporaryDirectory() as folder:
    prepared = str(Path(folder, "prepared.onnx"))
    quant_pre_process(source, prepared)
    quantize_static(prepared, target, Rows())
