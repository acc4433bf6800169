"""Attention in its written forms, recognised by the maths it computes."""

from hocket.compiler.graph.recognize.rules import (
    RecognitionResult,
    accept_all,
    recognize_attention,
)

__all__ = ["RecognitionResult", "accept_all", "recognize_attention"]
