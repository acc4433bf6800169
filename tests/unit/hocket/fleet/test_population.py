"""Who the devices of a fleet are, and when they are there."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

from hocket.fl.config import DeviceClass
from hocket.fl.venn.traces import PERIOD_SECONDS, client_sessions
from hocket.fleet.population import make_population

CLASSES = (DeviceClass(name="large", share=0.25), DeviceClass(name="small", share=0.75))
ATTRIBUTES = {"large": {"memory_bytes": 2.0}, "small": {"memory_bytes": 1.0}}


def test_every_class_has_its_share() -> None:
    made = make_population(40, CLASSES, 3)
    assert Counter(made.classes.values()) == {"large": 10, "small": 30}
    assert list(made.names) == sorted(made.names)
    assert made == make_population(40, CLASSES, 3) != make_population(40, CLASSES, 4)


def test_sessions_ascend_and_repeat_after_five_days() -> None:
    made = make_population(12, CLASSES, 3)
    starts, ends, clients = client_sessions(12, 3)
    found = list(islice(made.sessions(ATTRIBUTES), 2 * len(starts)))
    assert all(first.start <= second.start for first, second in pairwise(found))
    assert all(each.start < each.end for each in found)
    first, second = found[: len(starts)], found[len(starts) :]
    for one, other, start, end, client in zip(first, second, starts, ends, clients, strict=True):
        assert (one.start, one.end) == (start, end)
        assert (other.start, other.end) == (start + PERIOD_SECONDS, end + PERIOD_SECONDS)
        assert one.device == other.device
        assert one.device.device_id == made.names[client]
        assert one.device.attributes == ATTRIBUTES[made.classes[one.device.device_id]]
