"""ONNX files, written for any runtime and read for conversion."""
