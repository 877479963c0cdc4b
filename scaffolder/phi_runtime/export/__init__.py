"""Build, check and complete ONNX models with the ONNX Runtime GenAI model builder."""
