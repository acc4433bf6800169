"""What FedProphet's server decides: strengths, modules, means; beside brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.types import ClientUpdate
from hocket.fl.fat.aggregation import mean_of_parts
from hocket.fl.fat.assignment import Resources, SpanCost, assign
from hocket.fl.fat.perturbation import Adjustment
from hocket.fl.fat.stage import Phase, StageState

RATIOS = st.lists(st.floats(1, 1000), max_size=12)


@given(alpha=st.floats(0.3, 3), ratios=RATIOS, wanted=st.floats(1, 100))
def test_alpha_stays_in_its_range_and_moves_the_right_way(
    alpha: float, ratios: list[float], wanted: float
) -> None:
    adjustment = Adjustment()
    found = adjustment.adjust(alpha, ratios, wanted)
    assert adjustment.least <= found <= adjustment.most
    assert abs(found - alpha) <= adjustment.change + 1e-12
    if not ratios:
        assert found == alpha
        return
    mean = np.mean(ratios[-5:])
    if mean > 1.05 * wanted * (1 + 1e-9):  # too little robustness
        assert found == min(alpha + 0.1, adjustment.most)
    elif mean < 0.95 * wanted * (1 - 1e-9):  # too little accuracy
        assert found == max(alpha - 0.1, adjustment.least)


DEVICES = st.dictionaries(
    st.sampled_from([f"d{n}" for n in range(9)]),
    st.builds(Resources, st.floats(0, 100), st.floats(0.1, 10)),
    min_size=1,
)


@given(
    devices=DEVICES,
    sizes=st.lists(st.tuples(st.floats(0.1, 40), st.floats(0.1, 40)), min_size=1, max_size=7),
    data=st.data(),
)
def test_no_device_gets_more_than_it_has_room_and_time_for(
    devices: dict[str, Resources], sizes: list[tuple[float, float]], data: Any
) -> None:
    stage = data.draw(st.integers(0, len(sizes) - 1))

    def cost(first: int, last: int) -> SpanCost:
        part = sizes[first : last + 1]
        return SpanCost(sum(each[0] for each in part), sum(each[1] for each in part))

    found = assign(stage, len(sizes), devices, cost)
    slowest = max(cost(stage, stage).flops / each.flops_per_second for each in devices.values())
    assert found.keys() == devices.keys()
    for name, last in found.items():
        assert stage <= last < len(sizes)
        device = devices[name]

        def fits(number: int, device: Resources = device) -> bool:
            wanted = cost(stage, number)
            seconds = wanted.flops / device.flops_per_second
            return seconds <= slowest * (1 + 1e-9) and wanted.memory_bytes <= device.memory_bytes

        if last > stage:
            assert fits(last)
        if last + 1 < len(sizes):
            wanted = cost(stage, last + 1)
            assert (
                wanted.flops / device.flops_per_second >= slowest * (1 - 1e-9)
                or wanted.memory_bytes > device.memory_bytes
            )


@given(
    held=st.lists(
        st.tuples(st.sets(st.sampled_from("abcd")), st.integers(1, 50)), min_size=1, max_size=6
    ),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_means_of_parts_are_those_of_brute_force(
    held: list[tuple[set[str], int]], seed: int, data: Any
) -> None:
    generator = np.random.default_rng(seed)
    before = {name: generator.standard_normal(3).astype(np.float32) for name in "abcd"}
    updates = [
        ClientUpdate(
            round=1,
            device_id=f"d{number}",
            kind="train",
            parameters={n: generator.standard_normal(3).astype(np.float32) for n in sorted(names)},
            num_examples=count,
            metrics={},
        )
        for number, (names, count) in enumerate(held)
    ]
    found = mean_of_parts(before, data.draw(st.permutations(updates)))
    for name, array in before.items():
        rows = [(u.parameters[name], u.num_examples) for u in updates if name in u.parameters]
        wanted = array
        if rows:
            wanted = np.average([row for row, _ in rows], axis=0, weights=[n for _, n in rows])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
        assert found[name].dtype == np.float32
    again = mean_of_parts(before, updates)
    assert all(np.array_equal(found[name], again[name]) for name in before)


def test_names_that_begin_alike_are_not_confused() -> None:
    """The authors' aggregation matches parts of names: ``conv1`` there is in all of ``x.conv1``."""
    before = {"conv1": np.zeros(1), "block.conv1": np.zeros(1)}
    update = ClientUpdate(1, "d", "train", {"conv1": np.ones(1)}, 1, {})
    found = mean_of_parts(before, [update])
    assert found["conv1"] == 1
    assert found["block.conv1"] == 0


def test_a_stage_is_the_same_after_it_was_kept() -> None:
    state = StageState(
        number=2,
        round=7,
        phase=Phase.MEASURE,
        base_radius=1.25,
        alpha=0.4,
        best_score=-np.inf,
        ratios=(1.5, 2.25),
        best={"a": np.arange(3)},
    )
    found = StageState.from_arrays(state.to_arrays())
    assert {**vars(found), "best": None} == {**vars(state), "best": None}
    assert found.best is not None
    np.testing.assert_array_equal(found.best["a"], np.arange(3))
    assert type(found.number) is int
    assert found.phase is Phase.MEASURE


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adjustment(least=0.0),
        lambda: Adjustment(least=2.0, most=1.0),
        lambda: Adjustment(tolerance=1.0),
        lambda: Resources(-1.0, 1.0),
        lambda: Resources(1.0, 0.0),
    ],
    ids=["least", "most", "tolerance", "memory", "speed"],
)
def test_settings_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
