"""Rounds are recorded as they happen: by our coordinator, and around Flower's strategies."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from hocket.fl.core.clock import WallClock
from hocket.fl.core.coordinator import Coordinator, Plan
from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.errors import ConfigError, StoreError
from hocket.fl.core.parameters import digest_of
from hocket.fl.core.store import Key, MemoryStore
from hocket.fl.core.types import ClientUpdate, Device
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.catalog import MEMORY, Catalog
from hocket.fl.store.history import History
from hocket.fl.store.instances import Instances
from hocket.fl.store.objects import open_objects
from hocket.fl.store.recording import Recorded, Recorder
from hocket.fl.store.round_store import RoundStore
from hocket.fl.store.workloads.workload import Question
from hocket.fl.strategies.averaging import fedavg
from hocket.flower_recording import RecordedStrategy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hocket.fl.core.types import ClientTask, Reply


@pytest.fixture
def store() -> Iterator[RoundStore]:
    history = History(open_objects("memory://"), Catalog(MEMORY), lambda: 0.0)
    made = RoundStore(history, Instances(1 << 20))
    yield made
    made.close()


class Adding:
    """Answers every task with the model and a number by device and round."""

    def devices(self) -> Sequence[Device]:
        return [Device(f"d{place}") for place in range(4)]

    def run(self, tasks: Sequence[ClientTask], parameters: Any, timeout: Any) -> Iterator[Reply]:
        del timeout
        for task in tasks:
            moved = {"w": parameters["w"] + np.float32(task.round + int(task.device_id[1:]))}
            examples = 1 + int(task.device_id[1:])
            yield ClientUpdate(
                task.round, task.device_id, task.kind, moved, examples, {"loss": 1.0 / task.round}
            )


def test_every_round_of_a_federation_is_there(store: RoundStore) -> None:
    recorder = Recorder(store, "recorded", {"code": "1.0"})

    def run(strategy: Any) -> Any:
        coordinator = Coordinator(
            Plan("job", 3), strategy, Adding(), FifoScheduler(), MemoryStore(), WallClock()
        )
        return coordinator.run(coordinator.begin({"w": np.zeros(5, np.float32)}))

    plain, recorded = run(fedavg()), run(Recorded(fedavg(), recorder))
    recorder.close()
    assert recorded.digest == plain.digest
    catalog = store.history.catalog
    assert catalog.rounds("recorded", UPDATE) == [1, 2, 3]
    assert catalog.rounds("recorded", MODEL) == [0, 1, 2, 3]
    last = Key("recorded", 3, SERVER, MODEL)
    assert digest_of(store.history.arrays(last)) == plain.digest
    assert catalog.entry(last).provenance == {"code": "1.0"}
    parents = catalog.parents(last)
    assert [parent.weight for parent in parents] == [0.1, 0.2, 0.3, 0.4]
    mean = sum(
        parent.weight * store.history.arrays(parent.key)["w"].astype(np.float64)
        for parent in parents
    )
    np.testing.assert_allclose(store.history.arrays(last)["w"], mean, rtol=1e-6)
    assert catalog.entry(parents[0].key).metrics == {"loss": 1 / 3, "num_examples": 1.0}
    values = store.ask("cosine-scheduling", Question("recorded")).values
    assert values["cosines"] == pytest.approx(dict.fromkeys(("d0", "d1", "d2", "d3"), 1.0))


def test_what_cannot_be_recorded_is_said(store: RoundStore) -> None:
    recorder = Recorder(store, "job")
    recorder.update(1, "x", {"w": np.array([np.inf], np.float32)}, 1, {})
    with pytest.raises(StoreError, match="not finite"):
        recorder.flush()
    with pytest.raises(StoreError, match="not finite"):
        recorder.model(1, {"w": np.zeros(1, np.float32)}, {})


def test_who_brings_too_much_waits() -> None:
    gate = threading.Event()
    came: list[str] = []

    class Slow:
        def ingest(self, key: Key, *_: Any, **__: Any) -> None:
            gate.wait(10)
            came.append(key.device)

    slow: Any = Slow()
    recorder = Recorder(slow, "job", pending_bytes=100)
    arrays = {"w": np.zeros(20, np.float32)}
    recorder.update(1, "one", arrays, 1, {})
    other = threading.Thread(target=recorder.update, args=(1, "two", arrays, 1, {}))
    other.start()
    other.join(0.05)
    assert other.is_alive()
    gate.set()
    other.join(10)
    recorder.close()
    assert came == ["one", "two"]


def reply_of(node: int, numbers: Any, metrics: dict[str, Any]) -> Message:
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    content = RecordDict(
        {"arrays": ArrayRecord([np.asarray(numbers, np.float32)]), "metrics": MetricRecord(metrics)}
    )
    return Message(content, reply_to=asked)


def test_flower_strategies_are_recorded_in_one_line(
    store: RoundStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What messages say they are from, as in ServerApps.
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    recorder = Recorder(store, "flower")
    strategy = RecordedStrategy(FedAvg(fraction_train=0.0, fraction_evaluate=0.0), recorder)
    begun = ArrayRecord([np.zeros(3, np.float32)])
    no_grid: Any = None
    assert list(strategy.configure_train(1, begun, ConfigRecord(), no_grid)) == []
    replies = [
        reply_of(7, [1, 1, 1], {"num-examples": 1, "loss": 0.5}),
        reply_of(9, [4, 4, 4], {"num-examples": 2, "loss": 0.25}),
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    recorder.close()
    assert arrays is not None
    (mean,) = arrays.to_numpy_ndarrays()
    assert mean.tolist() == [3, 3, 3]
    catalog = store.history.catalog
    entries = catalog.entries("flower", kind=UPDATE)
    assert [entry.key.device for entry in entries] == ["node-7", "node-9"]
    assert entries[1].metrics == {"loss": 0.25, "num_examples": 2.0}
    (model,) = store.history.arrays(Key("flower", 1, SERVER, MODEL)).values()
    assert model.tolist() == [3, 3, 3]
    assert [parent.weight for parent in catalog.parents(Key("flower", 1, SERVER, MODEL))] == [
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    ]
    with pytest.raises(ConfigError, match="lack 'num-examples'"):
        strategy.aggregate_train(2, [reply_of(7, [1], {"loss": 1.0})])
