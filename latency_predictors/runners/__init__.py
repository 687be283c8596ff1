"""Runners: each times ONNX graphs with one runtime on one kind of device."""
