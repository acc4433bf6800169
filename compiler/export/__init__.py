"""Compiled modules as libraries and ONNX models for devices that have no Python."""
