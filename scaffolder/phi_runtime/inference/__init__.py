"""One way to ask a model, whether it is a base, an adapter, merged or ONNX."""
