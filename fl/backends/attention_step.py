"""Attention steps of an artifact as calls of the operator ``hocket::attention``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from hocket.fl.backends.attention_op import attention

if TYPE_CHECKING:
    from hocket.fl.backends.onnx_ops.node import Compute
    from hocket.runtime.steps import AttentionStep

_RULES = (
    "masked_value",
    "masked_rows",
    "query_offset",
    "left_window",
    "right_window",
    "softcap",
    "counts_from_end",
)


def attention_compute(step: AttentionStep, output_shape: tuple[int, ...]) -> Compute:
    """Return what computes a step from query, key, value, mask and lengths of keys.

    Args:
        step: In the sizes it is to have.
        output_shape: Of the tensor that it makes.
    """
    parameters = step.parameters
    rules = {name: getattr(parameters, name) for name in _RULES}
    # JSON has no infinity that all can read.
    rules["masked_value"] = str(rules["masked_value"])
    text = json.dumps(rules, sort_keys=True)
    plain = {"masked_value": "-inf", "query_offset": 0, "left_window": None}
    plain |= {"right_window": None, "softcap": 0.0, "counts_from_end": False}
    has_rules = any(rules[name] != value for name, value in plain.items())
    is_causal, scale, mask_shape = parameters.is_causal, parameters.scale, parameters.mask_shape

    def compute(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        kv_lengths: torch.Tensor | None,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            # Of what autocast has made of them, which may be several types; ours takes one.
            query, key, value = (
                each.to(torch.get_autocast_dtype("cpu")) for each in (query, key, value)
            )
        # Here and not in the operator: what the backward pass keeps must not be copied once more.
        query = query.reshape(parameters.query_shape).contiguous()
        key = key.reshape(parameters.key_shape).contiguous()
        value = value.reshape(parameters.value_shape).contiguous()
        if parameters.query_layout == "bnhd":
            query = query.transpose(1, 2)
        if parameters.key_layout == "bnhd":
            key = key.transpose(1, 2)
        if parameters.value_layout == "bnhd":
            value = value.transpose(1, 2)
        if mask is not None and mask_shape is not None:
            mask = mask.reshape(mask_shape)
        if has_rules or kv_lengths is not None:
            found = attention(query, key, value, mask, is_causal, scale, kv_lengths, text)
        else:
            found = attention(query, key, value, mask, is_causal, scale)
        output: torch.Tensor = found[0]
        if parameters.output_layout == "bnhd":
            output = output.transpose(1, 2)
        return output.reshape(output_shape)

    return compute
