"""Floor 3: an ONNX file in, an artifact out."""
