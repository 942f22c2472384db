"""ONNX models: reading a file, converting it, and the way from there to the network."""
