"""ONNX's operators in torch, one family a file; ``table.py`` has all of them by name.

A table of our own, because the libraries there are cannot be built on: onnx2torch 1.5 (2024) knows
no operator of an opset above 16 but a few, has no Gelu, RMSNormalization or CastLike, and wants
torchvision; onnx2pytorch ended in 2023. Both make modules of torch, whose parameters have other
names than an artifact's weights.
"""
