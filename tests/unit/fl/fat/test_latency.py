"""How long rounds take: the published model beside figures that the authors' own code gave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import Device
from hocket.fl.fat.latency import Speeds, Workload, fuller_seconds, published_seconds
from hocket.fl.fat.pool import PUBLISHED, Trained, load_pool

WARM_UP, ROUNDS, CLIENTS = 100, 500, 10


@pytest.mark.parametrize(
    ("pool_name", "reserved", "scaling", "sizes", "wanted_seconds", "wanted_share"),
    [
        # VGG16-BN on 64 CIFAR images: parameters, features, multiply-accumulates, input bytes.
        ("cifar", 60e6, 0.0, (15.25e6, 29.65e6, 20.16e9, 786_432), 2.53e5, 0.57),
        ("cifar", 60e6, -1.0, (15.25e6, 29.65e6, 20.16e9, 786_432), 3.86e5, 0.36),
        # ResNet34 on 32 Caltech images.
        ("caltech", 224e6, 0.0, (21.42e6, 218.4e6, 117.8e9, 19_267_584), 4.00e5, 0.85),
        ("caltech", 224e6, -1.0, (21.42e6, 218.4e6, 117.8e9, 19_267_584), 4.96e5, 0.80),
    ],
    ids=["vgg-balanced", "vgg-unbalanced", "resnet-balanced", "resnet-unbalanced"],
)
def test_the_published_model_gives_the_authors_figures_for_joint_training(
    pool_name: str,
    reserved: float,
    scaling: float,
    sizes: tuple[float, float, float, float],
    wanted_seconds: float,
    wanted_share: float,
) -> None:
    """Devices and their loads are drawn, so the sums agree within some per cent only."""
    pool = load_pool(pool_name, reserved, scaling)
    clean, attacked = (Workload(*sizes, attack_steps=steps) for steps in (0, 10))
    total = memory = 0.0
    for number in range(1, ROUNDS + 1):
        chosen = np.random.default_rng(number).choice(100, CLIENTS, replace=False)
        found = []
        for name in (f"d{index}" for index in chosen):
            has, kind = pool.resources(0, number, name), pool.class_of(0, name)
            speeds = Speeds(has.flops_per_second, has.memory_bytes, kind.storage_bytes_per_second)
            found.append(published_seconds(attacked if number > WARM_UP else clean, speeds))
        slowest = max(found, key=lambda each: each.total)
        total += slowest.total
        memory += slowest.memory
    assert total == pytest.approx(wanted_seconds, rel=0.12)
    assert memory / total == pytest.approx(wanted_share, abs=0.06)


@pytest.mark.parametrize("memory", [0.06, 1.7])
def test_a_pool_scaled_to_a_model_is_as_fast_for_it_as_for_its_own(memory: float) -> None:
    own = PUBLISHED["cifar"]
    model = Trained(memory * own.memory_bytes, 0.3 * own.macs, 0.0)
    pool = load_pool("cifar", 60e6)
    scaled = pool.scaled("cifar", model, memory * 60e6)
    sizes = (15.25e6, 29.65e6, 20.16e9, 786_432)
    smaller = Workload(memory * sizes[0], memory * sizes[1], 0.3 * sizes[2], memory * sizes[3])
    for number in range(30):
        found = []
        for each, work in ((pool, Workload(*sizes)), (scaled, smaller)):
            has, kind = each.resources(0, number, "d"), each.class_of(0, "d")
            speeds = Speeds(has.flops_per_second, has.memory_bytes, kind.storage_bytes_per_second)
            found.append(published_seconds(work, speeds).total)
        assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_availability_is_the_same_whoever_asks_and_when() -> None:
    pool = load_pool("cifar", 60e6)
    devices = [Device(f"d{number}") for number in range(20)]
    found = pool.available(3, 7, devices)
    assert found == pool.available(3, 7, devices[::-1])
    assert found != pool.available(3, 8, devices)
    assert all(each.memory_bytes >= 60e6 for each in found.values())
    assert len({pool.class_of(3, device.device_id).name for device in devices}) > 3


def test_the_fuller_model_counts_more() -> None:
    has = Speeds(1e12, 1e9, 1e9, network_bytes_per_second=1e6)
    work = Workload(1e6, 1e6, 1e9, 1e5, peak_bytes=5e8)
    bare = fuller_seconds(work, has)
    # 30 batches, each 3 forward passes and 10 attack steps of 2, two operations each.
    assert bare.compute == pytest.approx(30 * 23 * 2e9 / 1e12)
    assert bare.communication == bare.frozen == bare.evaluation == 0
    more = fuller_seconds(
        Workload(
            1e6,
            1e6,
            1e9,
            1e5,
            peak_bytes=1.5e9,
            frozen_macs=1e9,
            num_frozen_batches=2,
            evaluation_macs=1e9,
            sent_bytes=1e6,
            received_bytes=1e6,
        ),
        has,
    )
    assert more.communication == pytest.approx(2.0)
    assert more.frozen == pytest.approx(4e-3)
    assert more.evaluation == pytest.approx(2e-3)
    assert more.memory > bare.memory


def test_unknown_pools_are_refused() -> None:
    with pytest.raises(ConfigError, match="pool must be one of"):
        load_pool("phones", 1e6)


def test_an_attack_through_frozen_modules_takes_their_passes_and_their_weights() -> None:
    """Four steps there and twice back, and one pass more; weights come in if they do not fit."""
    speeds = Speeds(1e9, 5e6, 1e6, access_seconds=0.5)
    plain = Workload(1e4, 1e4, 1e6, 0.0, num_batches=3, attack_steps=4, peak_bytes=1e6)
    through = replace(plain, through_macs=2e6, through_parameters=1e6)
    more = published_seconds(through, speeds).compute - published_seconds(plain, speeds).compute
    assert more == pytest.approx(3 * (4 * 3 + 1) * 2e6 / 1e9)
    more = fuller_seconds(through, speeds).compute - fuller_seconds(plain, speeds).compute
    assert more == pytest.approx(2 * 3 * (4 * 3 + 1) * 2e6 / 1e9)
    assert published_seconds(through, speeds).memory == published_seconds(plain, speeds).memory
    small = replace(speeds, memory_bytes=2.5e6)
    memory = [published_seconds(each, small).memory for each in (plain, through)]
    # 4.08 MB do not fit into 2.5: two accesses each way, and 4 MB each way.
    assert memory[1] - memory[0] == pytest.approx(3 * 4 * (2 * 4e6 / 1e6 + 0.5 * 4))
    memory = [fuller_seconds(each, small).memory for each in (plain, through)]
    assert memory[1] - memory[0] == pytest.approx(3 * (2 * 4 + 1) * 4e6 / 1e6)
