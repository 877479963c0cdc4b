"""Search for an ONNX model that meets the constraints of its target.

Candidates are built by the ModelBuilder pass, cheapest first, and measured on this machine in separate
processes; the first one that meets all constraints is chosen.
"""
