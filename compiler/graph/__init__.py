"""The graph wing turns an ONNX file into regions and knows nothing of machines."""
