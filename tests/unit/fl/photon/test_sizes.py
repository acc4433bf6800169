"""Sizes of decoders, beside torch's own count of parameters and products."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hocket.fl.core.errors import ConfigError
from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.sizes import SIZES, GptSize, find_size

SMALL = [GptSize(2, 32, 4, 0, 61, 16), GptSize(3, 24, 4, 2, 50, 8), SIZES["1M"]]


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_parameters_are_those_of_the_module(size: GptSize) -> None:
    assert size.num_parameters == sum(each.numel() for each in Gpt(size).parameters())


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_flops_are_those_torch_counts(size: GptSize) -> None:
    module, batch = Gpt(size), 2
    ids = torch.zeros((batch, size.context), dtype=torch.int64)
    # Torch counts no products of its fused attention on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        scores = module(ids)
        assert counter.get_total_flops() == size.forward_flops * batch * size.context
        scores.sum().backward()
    assert counter.get_total_flops() == size.training_flops * batch * size.context


@pytest.mark.parametrize(
    ("name", "billions"),
    [("125M", 0.125), ("350M", 0.356), ("1.3B", 1.315), ("3B", 2.65), ("7B", 6.65)],
)
def test_the_papers_models_have_their_size(name: str, billions: float) -> None:
    assert find_size(name).num_parameters / 1e9 == pytest.approx(billions, rel=3e-3)


@pytest.mark.parametrize(
    "sizes", [(2, 30, 4), (2, 32, 4, 3), (0, 32, 4)], ids=["width", "kv_heads", "layers"]
)
def test_sizes_that_do_not_go_together_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        GptSize(*sizes)


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="125M"):
        find_size("8B")
