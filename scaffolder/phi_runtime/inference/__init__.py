"""Text generation, with the same interface for a base, an adapter, a merged and an ONNX model."""
