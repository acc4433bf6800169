"""Compiled decoders train as plain torch does, with its schedules and its optimizers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support.photon import TINY, draw_examples, tiny_backend
from torch.nn import functional

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Plan
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.store import MemoryStore
from hocket.fl.engines.local import InProcessEngine
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.config import load_photon_config
from hocket.fl.photon.gpt import Gpt
from hocket.fl.photon.recipe import Recipe
from hocket.fl.photon.server import PhotonServer

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 4
RECIPE = LocalTraining(
    batch_size=BATCH,
    optimizer="adamw",
    learning_rate=3e-3,
    beta_2=0.95,
    clip_norm=1.0,
    warmup_steps=4,
    decay_steps=20,
    final_share=0.1,
)


def torch_schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    warmup, decay = RECIPE.warmup_steps, RECIPE.decay_steps
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1, warmup - 1)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, decay - warmup, RECIPE.learning_rate * RECIPE.final_share
    )
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, falling], [warmup])


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_the_schedule_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RECIPE.learning_rate)
    schedule = torch_schedule(optimizer)
    for step in range(RECIPE.decay_steps):
        assert RECIPE.learning_rate_at(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        schedule.step()
    floor = RECIPE.learning_rate * RECIPE.final_share
    assert RECIPE.learning_rate_at(1000) == pytest.approx(floor)


def test_a_schedule_goes_on_where_the_server_says() -> None:
    later = LocalTraining(**{**RECIPE.to_config(), "first_step": 7})  # type: ignore[arg-type]
    assert [later.learning_rate_at(n) for n in range(5)] == [
        RECIPE.learning_rate_at(n) for n in range(7, 12)
    ]


def test_a_hundred_steps_are_those_of_plain_torch() -> None:
    """AdamW with decay, gradients that are clipped in some steps, a schedule that ends."""
    num_steps = 100
    recipe = dataclasses.replace(RECIPE, weight_decay=0.01, warmup_steps=10, decay_steps=num_steps)
    examples, backend, module = draw_examples(BATCH * num_steps), tiny_backend(), Gpt(TINY, 1)
    start = {name: each.detach().clone() for name, each in module.named_parameters()}
    result = backend.train(recipe, examples, 5)
    optimizer = torch.optim.AdamW(
        module.parameters(), recipe.learning_rate, (0.9, 0.95), weight_decay=recipe.weight_decay
    )
    losses, norms = [], []
    for step, batch in enumerate(examples.batches(BATCH, np.random.default_rng(5))):
        scores = module(torch.from_numpy(batch.inputs["ids"]))
        loss = functional.cross_entropy(
            scores.flatten(0, 1), torch.from_numpy(batch.targets).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        optimizer.step()
        losses.append(loss.item())
    assert min(norms) < recipe.clip_norm < max(norms)
    assert losses[-1] < losses[0] - 0.5
    assert result.num_steps == num_steps
    assert result.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    found = backend.parameters()
    assert found.keys() == start.keys()
    off = moved = 0.0
    for name, each in module.named_parameters():
        reached = each.detach().numpy()
        off += float(((found[name] - reached) ** 2).sum())
        moved += float(((reached - start[name].numpy()) ** 2).sum())
        # Adam divides gradients by their size, so that rounding tells in small ones.
        np.testing.assert_allclose(found[name], reached, rtol=0, atol=2e-3, err_msg=name)
    assert off**0.5 < 1e-3 * moved**0.5


def test_products_of_bfloat16_train_as_under_the_autocast_of_torch() -> None:
    num_steps = 60
    recipe = dataclasses.replace(RECIPE, decay_steps=num_steps, precision="bf16")
    examples, module = draw_examples(BATCH * num_steps), Gpt(TINY, 1)
    halves, whole = tiny_backend(), tiny_backend()
    result = halves.train(recipe, examples, 5)
    exact = whole.train(dataclasses.replace(recipe, precision="float32"), examples, 5)
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step, batch in enumerate(examples.batches(BATCH, np.random.default_rng(5))):
        with torch.autocast("cpu", torch.bfloat16):
            scores = module(torch.from_numpy(batch.inputs["ids"]))
        loss = functional.cross_entropy(
            scores.flatten(0, 1).float(), torch.from_numpy(batch.targets).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimizer.param_groups[0]["lr"] = recipe.learning_rate_at(step)
        optimizer.step()
        losses.append(loss.item())
    assert result.metrics["loss"] == pytest.approx(np.mean(losses), rel=0.01)
    assert result.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.01)
    assert result.metrics["loss"] != exact.metrics["loss"]
    assert losses[-1] < losses[0] - 0.5
    assert {array.dtype for array in halves.parameters().values()} == {np.dtype(np.float32)}


def test_an_optimizer_goes_on_with_what_it_has_gathered() -> None:
    """Two trainings of three steps are one of six if the optimizer is kept, and else are not."""
    examples = draw_examples(6 * BATCH)
    halves = [examples.take(slice(0, 3 * BATCH)), examples.take(slice(3 * BATCH, None))]
    settings = RECIPE.to_config() | {"keep_optimizer": True}
    ends = []
    for is_kept in (True, False):
        backend, state = tiny_backend(), None
        for half, first_step in zip(halves, (0, 3), strict=True):
            training = LocalTraining(**{**settings, "first_step": first_step})  # type: ignore[arg-type]
            found = backend.train(training, half, 0, state if is_kept else None)
            state = found.optimizer_state
        ends.append(backend.parameters())
    whole = tiny_backend()
    # In the order in which the halves were shuffled.
    order = np.random.default_rng(0).permutation(3 * BATCH)
    both = np.concatenate([order, order + 3 * BATCH])
    training = LocalTraining(**{**settings, "keep_optimizer": False})  # type: ignore[arg-type]
    arranged = examples.take(both)
    inverse = np.argsort(np.random.default_rng(1).permutation(len(both)))
    whole.train(training, arranged.take(inverse), 1)
    for name, array in whole.parameters().items():
        np.testing.assert_array_equal(ends[0][name], array, err_msg=name)
    assert any((ends[1][name] != array).any() for name, array in ends[0].items())


def test_a_state_of_other_parameters_is_refused() -> None:
    with pytest.raises(UpdateError, match="no tensor"):
        tiny_backend().train(RECIPE, draw_examples(4), 0, {"exp_avg/other": np.zeros(3)})
    with pytest.raises(UpdateError, match="want"):
        tiny_backend().train(RECIPE, draw_examples(4), 0, {"exp_avg/norm.bias": np.zeros(3)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta_2": 1.0},
        {"final_share": 1.5},
        {"warmup_steps": -1},
        {"decay_steps": 4},
        {"precision": "int8"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LocalTraining(**{**RECIPE.to_config(), **wrong})  # type: ignore[arg-type]


def test_settings_survive_a_task() -> None:
    config = RECIPE.to_config()
    assert LocalTraining.from_config(config) == RECIPE


def test_averaging_each_step_is_training_on_all_batches_at_once() -> None:
    """What is sent at each step by synchronous training: the mean of gradients."""
    num_clients, num_rounds = 4, 3
    everything = [draw_examples(num_clients * BATCH, seed) for seed in range(num_rounds)]
    training = LocalTraining(batch_size=BATCH, learning_rate=0.1)

    @dataclasses.dataclass
    class Shares:
        def device_ids(self) -> list[str]:
            return [str(number) for number in range(num_clients)]

        def take(self, device_id: str, cursor: int, count: int) -> Examples:
            start = int(device_id) * BATCH
            return everything[cursor // BATCH].take(slice(start, start + count))

    store = MemoryStore()
    client = PhotonClient(tiny_backend(), Shares(), store)

    @dataclasses.dataclass
    class Here:
        def device_ids(self) -> list[str]:
            return client.sequences.device_ids()

        def __call__(self) -> PhotonClient:
            return client

    server = PhotonServer(
        Plan("run", num_rounds),
        Recipe(training, 1, TINY.context),
        InProcessEngine(Here(), WallClock()),
        store,
        WallClock(),
    )
    start = tiny_backend().parameters()
    found = server.run(server.begin(start)).state.parameters
    backend = tiny_backend()
    whole = dataclasses.replace(training, batch_size=num_clients * BATCH)
    for examples in everything:
        backend.train(whole, examples, 0)
    for name, array in backend.parameters().items():
        assert (array != start[name]).any()
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-6, err_msg=name)


def test_a_file_says_what_products_are_computed_in(tmp_path: Path) -> None:
    path = tmp_path / "photon.toml"
    path.write_text('[model]\nsize = "1M"\n[training]\ndtype = "bf16"\n', encoding="utf-8")
    assert load_photon_config(path).recipe(16).training.precision == "bf16"
    path.write_text('[model]\nsize = "1M"\n', encoding="utf-8")
    assert load_photon_config(path).recipe(16).training.precision == "float32"
    path.write_text('[model]\nsize = "1M"\n[training]\ndtype = "fp8"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"training\.dtype"):
        load_photon_config(path)
