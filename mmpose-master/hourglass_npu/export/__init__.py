"""ONNX: export, verification, quantisation, evaluation."""
