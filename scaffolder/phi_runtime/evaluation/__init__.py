"""Evaluation: metrics of answers, and the comparison of base, adapter, merged and ONNX models."""
