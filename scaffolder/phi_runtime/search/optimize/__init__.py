"""Which ONNX model of a workflow's full-precision one keeps to what its target allows: candidates are built, cheapest first, by the
ModelBuilder pass itself, measured on this machine in processes of their own, and the first that holds all constraints is chosen.
"""
