"""The attention operators of onnxruntime (domain ``com.microsoft``), written out in ONNX's own."""
