"""Work that runs models, beside torch on the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save
from support.digits_federation import make_module, write_federation

import hocket
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store.access import EXAMPLES, MODEL, MODULE, SERVER, UPDATE
from hocket.fl.store.workloads.models import infer, odd_ones
from hocket.fl.store.workloads.workload import Question
from hocket.runtime.artifact import save_artifact
from hocket.store_models import make_model
from hocket.store_parts import open_round_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.fl.store.round_store import RoundStore

DEVICES = [f"d{place}" for place in range(5)]
WRONG = "d3"
JOB = "digits"


class Filled:
    """A store with a round of a small network's updates, and the same as torch has them."""

    def __init__(self, store: RoundStore, module: bytes) -> None:
        self.store = store
        rng = np.random.default_rng(0)
        self.images = rng.standard_normal((70, 1, 8, 8)).astype(np.float32)
        self.network = make_module("cnn").eval()
        weights = {name: each.numpy() for name, each in self.network.state_dict().items()}
        names = set(hocket_weights(module))
        assert names <= set(weights)
        self.updates: dict[str, dict[str, Any]] = {}
        for device in DEVICES:
            noise = 0.3 if device == WRONG else 0.001
            self.updates[device] = {
                name: each + noise * rng.standard_normal(each.shape).astype(np.float32)
                for name, each in weights.items()
                if name in names
            }
        # What d0 says is what is wanted.
        self.targets = self.scores("d0").argmax(axis=1)
        store.put(Key(JOB, 0, SERVER, MODULE), module)
        self.input = hocket_input(module)
        examples = save({self.input: self.images, "targets": self.targets})
        store.put(Key(JOB, 0, SERVER, EXAMPLES), examples)
        for device, update in self.updates.items():
            store.ingest(Key(JOB, 1, device, UPDATE), update, {"num_examples": 1})
        store.ingest(Key(JOB, 1, SERVER, MODEL), self.updates["d1"])

    def scores(self, device: str) -> Any:
        """Return torch's answer to all images."""
        state = {name: torch.from_numpy(each) for name, each in self.updates[device].items()}
        self.network.load_state_dict(state, strict=False)
        with torch.no_grad():
            return self.network(torch.from_numpy(self.images)).numpy()


def hocket_weights(module: bytes) -> Any:
    return hocket.runtime.artifact.parse_artifact(module).weights


def hocket_input(module: bytes) -> str:
    return hocket.runtime.artifact.parse_artifact(module).signature.inputs[0].name


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("models")
    write_federation(folder, "cnn")
    artifact = hocket.compile(folder / "cnn.onnx", "host", {"batch": (1, 32)}).artifact
    save_artifact(artifact, folder / "cnn.hkt")
    with open_round_store(
        str(folder / "store"), memory_bytes=16 << 20, num_instances=1, must_exist=False
    ) as store:
        yield Filled(store, (folder / "cnn.hkt").read_bytes())


def test_a_rounds_model_says_what_torch_says(filled: Filled) -> None:
    for device in (None, "d2"):
        answer = filled.store.ask("inference", Question(JOB, device=device))
        wanted = filled.scores(device or "d1")
        (found,) = answer.arrays.values()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
        assert answer.values["predictions"] == wanted.argmax(axis=1).tolist()
        assert answer.values["accuracy"] == (wanted.argmax(axis=1) == filled.targets).mean()


def test_early_exits_beside_a_model_change_nothing(filled: Filled) -> None:
    exits = {"exit.middle.weight": np.ones((10, 4), np.float32)}
    filled.store.ingest(Key(JOB, 1, "beside", UPDATE), {**filled.updates["d2"], **exits})
    try:
        found = filled.store.ask("inference", Question(JOB, 1, "beside"))
    finally:
        filled.store.delete(Key(JOB, 1, "beside", UPDATE))
    wanted = filled.store.ask("inference", Question(JOB, 1, "d2"))
    assert found.values["predictions"] == wanted.values["predictions"]


@given(
    hnp.arrays(np.int64, (3, 4), elements=st.integers(-1, 5)),
    hnp.arrays(np.float32, (3, 4, 6), elements=st.integers(0, 9)),
)
def test_of_a_model_of_language_tokens_that_count_are_compared(targets: Any, scores: Any) -> None:
    class Says:
        def outputs(self, parameters: object, inputs: object) -> dict[str, Any]:
            return {"scores": scores}

    contents = [
        (Key(JOB, 0, SERVER, kind), memoryview(save(arrays)))
        for kind, arrays in (
            (EXAMPLES, {"tokens": np.zeros((3, 4)), "targets": targets}),
            (MODEL, {"w": np.zeros(1)}),
        )
    ]
    values = infer({"round": 1, "device": SERVER}, contents, Says()).values
    pairs = [
        (int(np.argmax(scores[place])), wanted)
        for place, wanted in np.ndenumerate(targets)
        if wanted >= 0
    ]
    assert "predictions" not in values
    assert ("accuracy" in values) == bool(pairs)
    if pairs:
        hits = sum(said == wanted for said, wanted in pairs)
        assert values["accuracy"] == pytest.approx(hits / len(pairs))


def test_devices_are_chosen_by_accuracy(filled: Filled) -> None:
    answer = filled.store.ask("accuracy-scheduling", Question(JOB, options={"count": 2}))
    wanted = {
        device: float((filled.scores(device).argmax(axis=1) == filled.targets).mean())
        for device in DEVICES
    }
    assert answer.values["accuracy"] == wanted
    assert answer.values["chosen"] == sorted(DEVICES, key=lambda each: (-wanted[each], each))[:2]


def test_the_broken_update_is_found(filled: Filled) -> None:
    answer = filled.store.ask("debugging", Question(JOB))
    assert answer.values["suspicious"] == [WRONG]
    predicted = np.array([filled.scores(device).argmax(axis=1) for device in DEVICES])
    usual = np.array([np.bincount(column).argmax() for column in predicted.T])
    assert answer.values["unlike_majority"] == dict(
        zip(DEVICES, (predicted != usual).mean(axis=1).tolist(), strict=True)
    )


def test_module_and_examples_stay_in_memory(filled: Filled) -> None:
    for _ in range(2):
        filled.store.ask("debugging", Question(JOB))
        filled.store.settle()
    last = filled.store.handled()[-1]
    assert (last.num_reads, last.num_hits) == (len(DEVICES) + 2, len(DEVICES) + 2)


def test_what_cannot_be_run_is_explained(filled: Filled) -> None:
    store = filled.store
    store.ingest(Key("other", 1, "d0", UPDATE), {"w": np.ones(3, np.float32)})
    with pytest.raises(ConfigError, match="there is no other/00000000/server/module"):
        store.ask("inference", Question("other", 1, "d0"))
    store.put(Key("other", 0, SERVER, MODULE), b"no module")
    examples = {"examples": f"{JOB}/00000000/server/examples"}
    with pytest.raises(ConfigError, match="the module"):
        store.ask("inference", Question("other", 1, "d0", examples))
    module = {"module": f"{JOB}/00000000/server/module"}
    with pytest.raises(ConfigError, match="has no parameters w"):
        store.ask("inference", Question("other", 1, "d0", {**examples, **module}))
    store.put(Key("other", 0, SERVER, EXAMPLES), save({"wrong": np.ones((2, 3), np.float32)}))
    wrong = Question(JOB, options={"examples": "other/00000000/server/examples"})
    with pytest.raises(ConfigError, match="takes others"):
        store.ask("inference", wrong)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(3, 6), st.integers(1, 4), st.integers(1, 8))))
def test_the_odd_one_is_the_one_without_which_most_agree(active: Any) -> None:
    count, num_examples, _ = active.shape
    for example, found in zip(range(num_examples), odd_ones(active), strict=True):
        agreed = []
        for left_out in range(count):
            others = [active[place, example] for place in range(count) if place != left_out]
            agreed.append(sum(len(set(column)) == 1 for column in zip(*others, strict=True)))
        best = [place for place in range(count) if agreed[place] == max(agreed)]
        assert found == (best[0] if len(best) == 1 else -1)


def test_a_last_batch_may_be_smaller_than_the_module_takes(tmp_path: Path) -> None:
    write_federation(tmp_path, "cnn")
    artifact = hocket.compile(tmp_path / "cnn.onnx", "host", {"batch": 8}).artifact
    save_artifact(artifact, tmp_path / "cnn.hkt")
    model = make_model(memoryview((tmp_path / "cnn.hkt").read_bytes()))
    images = np.random.default_rng(0).standard_normal((19, 1, 8, 8)).astype(np.float32)
    (found,) = model.outputs({}, {artifact.signature.inputs[0].name: images}).values()
    with torch.no_grad():
        wanted = make_module("cnn").eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
