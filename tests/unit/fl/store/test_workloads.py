"""Work on updates, against the same done plainly on whole vectors."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.store import layout
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.catalog import MEMORY, Catalog
from hocket.fl.store.history import History
from hocket.fl.store.objects import open_objects
from hocket.fl.store.statistics import work_out
from hocket.fl.store.workloads import WORKLOADS, means
from hocket.fl.store.workloads.contribution import estimate_shapley, shapley
from hocket.fl.store.workloads.means import middle_network, sorting_network
from hocket.fl.store.workloads.similarity import krum_scores
from hocket.fl.store.workloads.workload import Answer, Question

NUMBERS, DEVICES, ROUNDS = 300, 8, 4
NAMES = [f"d{place}" for place in range(DEVICES)]
WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0])


class Made:
    """A job of some rounds, as a store has it and as plain arrays."""

    def __init__(self, spread: float = 1.0) -> None:
        rng = np.random.default_rng(1)
        self.history = History(open_objects("memory://"), Catalog(MEMORY), lambda: 0.0)
        model = rng.normal(size=NUMBERS).astype(np.float32)
        self.models, self.updates = [model], []
        self._keep(Key("job", 0, SERVER, MODEL), model)
        for number in range(1, ROUNDS + 1):
            # Two kinds of devices: half goes one way, half the other.
            ways = np.where(np.arange(DEVICES)[:, None] < DEVICES // 2, 1.0, -1.0) + 0.5
            found = model + ways + spread * rng.normal(size=(DEVICES, NUMBERS))
            updates = found.astype(np.float32)
            others: dict[str, Any] = {}
            for place, device in enumerate(NAMES):
                statistics = work_out(device, updates[place], others, model)
                others[device] = updates[place]
                self._keep(
                    Key("job", number, device, UPDATE),
                    updates[place],
                    metrics={
                        "num_examples": WEIGHTS[place],
                        "loss": 2.0 / number + place,
                        "accuracy": place / 10,
                        "seconds": 1.0 + place,
                    },
                    provenance={"learning_rate": "0.1"},
                    statistics=statistics,
                )
            self.updates.append(updates)
            model = np.average(updates, axis=0, weights=WEIGHTS).astype(np.float32)
            self.models.append(model)
            self._keep(
                Key("job", number, SERVER, MODEL),
                model,
                made_from={
                    Key("job", number, device, UPDATE): weight / WEIGHTS.sum()
                    for device, weight in zip(NAMES, WEIGHTS, strict=True)
                },
                provenance={"artifact": "abc"},
            )

    def _keep(self, key: Key, numbers: Any, **known: Any) -> None:
        arrays = {"w": numbers[: NUMBERS - 6], "b": numbers[NUMBERS - 6 :].reshape(2, 3)}
        self.history.record_arrays(key, {**arrays, "count": np.array(key.round)}, **known)

    def changes(self, number: int) -> Any:
        return (self.updates[number - 1] - self.models[number - 1]).astype(np.float64)

    def ask(self, workload: str, **question: Any) -> Answer:
        work = WORKLOADS[workload]
        plan = work.prepare(self.history.catalog, Question("job", **question))
        facts = json.loads(json.dumps(plan.facts))
        contents = [(key, self.history.view(key)) for key in plan.keys]
        answer = work.compute(facts, contents)
        json.dumps(answer.values)
        return answer


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


def flat(answer: Answer) -> Any:
    return np.concatenate([answer.arrays["w"], answer.arrays["b"].ravel()])


def test_cosine_scheduling(made: Made) -> None:
    answer = made.ask("cosine-scheduling", round=2, options={"count": 3})
    changes = made.changes(2)
    mean = np.average(changes, axis=0, weights=WEIGHTS)
    wanted = changes @ mean / np.linalg.norm(changes, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(list(answer.values["cosines"].values()), wanted, rtol=1e-4)
    assert answer.values["chosen"] == [NAMES[place] for place in np.argsort(-wanted)[:3]]
    least = made.ask("cosine-scheduling", round=2, options={"order": "least", "count": 2})
    assert least.values["chosen"] == [NAMES[place] for place in np.argsort(wanted)[:2]]


def test_clusters_are_k_means_on_the_updates(made: Made) -> None:
    answer = made.ask("clustering", options={"clusters": 2})
    assert answer.values["round"] == ROUNDS
    assert answer.values["clusters"] == [NAMES[:4], NAMES[4:]]
    plain = KMeans(2, n_init=10, random_state=0).fit(made.changes(ROUNDS))
    assert answer.values["inertia"] == pytest.approx(plain.inertia_, rel=1e-4)


def test_krum_is_as_defined(made: Made) -> None:
    changes = made.changes(1)
    wanted = []
    for place in range(DEVICES):
        others = np.delete(changes, place, axis=0)
        squares = np.sort(np.square(others - changes[place]).sum(axis=1))
        wanted.append(squares[: DEVICES - 2 - 2].sum())
    np.testing.assert_allclose(krum_scores(changes @ changes.T, 2), wanted, rtol=1e-9)


@pytest.mark.parametrize("rule", ["krum", "cosine", "length", "majority"])
def test_every_rule_finds_what_it_is_made_for(rule: str) -> None:
    rng = np.random.default_rng(2)
    catalog = Catalog(MEMORY)
    history = History(open_objects("memory://"), catalog, lambda: 0.0)
    good = 1.0 + 0.3 * rng.normal(size=(9, 500))
    evil = -30.0 * good.mean(axis=0)
    others: dict[str, Any] = {}
    for place, numbers in enumerate([*good, evil]):
        device = f"d{place}"
        update = numbers.astype(np.float32)
        known = work_out(device, update, others, None)
        others[device] = update
        history.record_arrays(Key("job", 1, device, UPDATE), {"w": update}, statistics=known)
    work = WORKLOADS["filtering"]
    plan = work.prepare(catalog, Question("job", options={"rule": rule, "malicious": 1}))
    values = work.compute(plan.facts, ()).values
    assert values["suspicious"] == ["d9"]
    assert max(values["scores"], key=values["scores"].__getitem__) == "d9"


def test_updates_that_are_alike_are_not_suspicious(made: Made) -> None:
    for rule in ("cosine", "length"):
        answer = made.ask("filtering", options={"rule": rule, "width": 50.0})
        assert answer.values["suspicious"] == []


def test_noise_alone_is_no_minority() -> None:
    rng = np.random.default_rng(3)
    updates = 1.0 + rng.normal(size=(9, 500))
    facts = {
        "round": 1,
        "rule": "majority",
        "devices": [f"d{place}" for place in range(9)],
        "products": (updates @ updates.T).tolist(),
    }
    assert WORKLOADS["filtering"].compute(facts, ()).values["suspicious"] == []


def shapley_by_orders(changes: Any, weights: Any) -> Any:
    """Return Shapley values by their first definition: what each adds, over all orders."""
    count = len(weights)
    everyone = weights @ changes

    def worth(members: tuple[int, ...]) -> float:
        mean = weights[list(members)] @ changes[list(members)]
        return float(mean @ everyone / np.linalg.norm(mean) / np.linalg.norm(everyone))

    found = np.zeros(count)
    for order in itertools.permutations(range(count)):
        before = 0.0
        for step in range(count):
            after = worth(order[: step + 1])
            found[order[step]] += after - before
            before = after
    return found / math.factorial(count)


def test_shapley_values_are_those_of_all_orders(made: Made) -> None:
    changes, weights = made.changes(3)[:6], WEIGHTS[:6]
    products = changes @ changes.T
    wanted = shapley_by_orders(changes, weights)
    np.testing.assert_allclose(shapley(products, weights), wanted, rtol=1e-9)
    assert shapley(products, weights).sum() == pytest.approx(1.0)
    estimated = estimate_shapley(products, weights, 4000, seed=0)
    np.testing.assert_allclose(estimated, wanted, atol=0.02)
    assert estimated.sum() == pytest.approx(1.0)


def test_tokens_are_shared_by_contribution(made: Made) -> None:
    values = made.ask("contribution", options={"tokens": 50}).values
    assert sum(values["tokens"].values()) == pytest.approx(50)
    worth = np.clip([values["values"][name] for name in NAMES], 0, None)
    assert (worth > 0).sum() > 2
    np.testing.assert_allclose(
        [values["tokens"][name] for name in NAMES], 50 * worth / worth.sum(), rtol=1e-9
    )


def test_oort_prefers_large_losses_of_those_in_time(made: Made) -> None:
    values = made.ask("oort-selection", options={"count": 3, "pace_seconds": 6.0}).values
    loss = 2.0 / ROUNDS + np.arange(DEVICES)
    wanted = WEIGHTS * loss + math.sqrt(0.1 * math.log(ROUNDS) / ROUNDS)
    seconds = 1.0 + np.arange(DEVICES)
    wanted *= np.where(seconds > 6, (6 / seconds) ** 2, 1.0)
    np.testing.assert_allclose([values["utility"][name] for name in NAMES], wanted)
    assert values["chosen"] == [NAMES[place] for place in np.argsort(-wanted)[:3]]


def test_tiers_are_of_like_speed(made: Made) -> None:
    values = made.ask("tier-selection", options={"tiers": 4, "count": 1}).values
    assert values["tiers"] == [NAMES[:2], NAMES[2:4], NAMES[4:6], NAMES[6:]]
    assert values["chosen"][0] in values["tiers"][values["tier"]]
    np.testing.assert_allclose(values["accuracies"], [0.05, 0.25, 0.45, 0.65])
    drawn = [
        made.ask("tier-selection", options={"tiers": 2, "seed": seed}).values["tier"]
        for seed in range(60)
    ]
    # The worse tier lacks 0.4 and both have 0.5 besides: 9 of 14.
    assert 25 <= drawn.count(0) <= 52


def test_reputation_follows_agreement(made: Made) -> None:
    values = made.ask("reputation", device="d7", options={"memory": 0.5}).values
    found = None
    for number in range(1, ROUNDS + 1):
        changes = made.changes(number)
        mean = np.average(changes, axis=0, weights=WEIGHTS)
        alike = changes[7] @ mean / np.linalg.norm(changes[7]) / np.linalg.norm(mean)
        found = alike if found is None else (found + alike) / 2
    assert values["reputation"] == pytest.approx(found, rel=1e-4)
    assert [step["round"] for step in values["course"]] == [1, 2, 3, 4]


def test_convergence_is_measured(made: Made) -> None:
    course = made.ask("convergence", options={"rounds": 3}).values["rounds"]
    assert [step["round"] for step in course] == [2, 3, 4]
    for step in course:
        changes = made.changes(step["round"])
        mean = np.average(changes, axis=0, weights=WEIGHTS)
        spread = np.average(np.square(changes).sum(axis=1), weights=WEIGHTS)
        assert step["step"] == pytest.approx(np.linalg.norm(mean), rel=1e-4)
        assert step["drift"] == pytest.approx(1 - mean @ mean / spread, abs=1e-4)
        assert step["loss"] == pytest.approx(
            np.average(2.0 / step["round"] + np.arange(DEVICES), weights=WEIGHTS)
        )
    means = [np.average(made.changes(number), axis=0, weights=WEIGHTS) for number in (2, 3)]
    exact = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
    assert course[0]["turn"] is None
    assert course[1]["turn"] == pytest.approx(exact, abs=0.06)


def test_settings_and_metrics_are_told(made: Made) -> None:
    values = made.ask("settings", options={"rounds": 2}, device="d1").values
    assert [row["round"] for row in values["rows"]] == [3, 4]
    assert values["rows"][0]["learning_rate"] == "0.1"
    assert values["means"]["4"]["seconds"] == 2.0


def test_a_model_can_be_traced_to_its_updates() -> None:
    made = Made()
    values = made.ask("audit", round=2).values
    assert values["provenance"] == {"artifact": "abc"}
    assert sum(parent["weight"] for parent in values["made_from"]) == pytest.approx(1)
    assert {parent["state"] for parent in values["made_from"]} == {"kept"}
    made.history.delete(Key("job", 2, "d0", UPDATE))
    made.history.put(Key("job", 2, "d1", UPDATE), b"something else")
    states = {
        parent["update"].split("/")[2]: parent["state"]
        for parent in made.ask("audit", round=2).values["made_from"]
    }
    assert (states["d0"], states["d1"], states["d2"]) == ("gone", "replaced", "kept")
    used = made.ask("audit", device="d5").values["updates"]
    assert [each["went_into"] for each in used] == [
        [f"job/{number:08d}/server/model"] for number in range(1, ROUNDS + 1)
    ]


def test_a_personal_model_is_the_mean_of_its_like(made: Made) -> None:
    answer = made.ask("personalisation", round=3, device="d6", options={"clusters": 2})
    assert answer.values["devices"] == NAMES[4:]
    wanted = np.average(made.updates[2][4:], axis=0, weights=WEIGHTS[4:])
    np.testing.assert_allclose(flat(answer), wanted, rtol=1e-6)
    assert answer.arrays["count"].dtype == np.int64
    assert answer.arrays["count"] == 3


@pytest.mark.parametrize(("rule", "share"), [("median", 0.1), ("trimmed", 0.3)])
def test_robust_means(made: Made, rule: str, share: float) -> None:
    answer = made.ask("robust-mean", round=1, options={"rule": rule, "share": share})
    ordered = np.sort(made.updates[0].astype(np.float64), axis=0)
    wanted = np.median(ordered, axis=0) if rule == "median" else ordered[2:-2].mean(axis=0)
    np.testing.assert_allclose(flat(answer), wanted, rtol=1e-6)


def test_unlearning_averages_anew_without_the_device(made: Made) -> None:
    answer = made.ask("unlearning", device="d3")
    left = np.delete(WEIGHTS, 3)
    wanted = made.models[-1].astype(np.float64)
    for updates in made.updates:
        with_it = np.average(updates, axis=0, weights=WEIGHTS)
        wanted += np.average(np.delete(updates, 3, axis=0), axis=0, weights=left) - with_it
    np.testing.assert_allclose(flat(answer), wanted, atol=1e-4)
    assert answer.values["rounds"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("workload", "question", "message"),
    [
        ("clustering", {"round": 9}, "no updates of round 9; it has some of rounds 1 to 4"),
        ("clustering", {"options": {"clusters": 9}}, "has 8 updates only"),
        ("clustering", {"options": {"clusters": 1.5}}, "want a whole number"),
        ("clustering", {"options": {"clusters": "two"}}, "want a number of 1 or more"),
        ("filtering", {"options": {"rule": "guess"}}, "want one of krum, cosine"),
        ("filtering", {"options": {"malicious": 3}}, "bears at most 2, got 3"),
        ("robust-mean", {"options": {"share": 0.5}}, "want less than 0.5"),
        ("reputation", {}, "name one"),
        ("reputation", {"device": "nobody"}, "never took part"),
        ("personalisation", {"device": "nobody"}, "did not take part"),
        ("unlearning", {"device": "nobody"}, "took no part"),
        ("tier-selection", {"options": {"tiers": 99}}, "8 devices only"),
        ("audit", {"round": 77}, "no model of that round"),
    ],
)
def test_what_cannot_be_answered_is_said(
    made: Made, workload: str, question: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made.ask(workload, **question)


def test_updates_that_were_only_put_have_no_products() -> None:
    history = History(open_objects("memory://"), Catalog(MEMORY), lambda: 0.0)
    history.put(Key("job", 1, "x", UPDATE), layout.encode({"w": np.ones(2, np.float32)}))
    with pytest.raises(ConfigError, match="put updates by `ingest`"):
        WORKLOADS["clustering"].prepare(history.catalog, Question("job"))


@pytest.mark.parametrize("count", range(1, 11))
def test_a_sorting_network_sorts_all_zeros_and_ones(count: int) -> None:
    """And so everything (Knuth's 0-1 principle)."""
    values = np.array(list(itertools.product([0.0, 1.0], repeat=count)))
    wanted = np.sort(values, axis=1)
    for low, high in sorting_network(count):
        assert low < high
        pair = values[:, [low, high]]
        values[:, low], values[:, high] = pair.min(axis=1), pair.max(axis=1)
    np.testing.assert_array_equal(values, wanted)


@pytest.mark.parametrize("count", range(1, 9))
def test_a_network_for_the_middle_finds_the_middle(count: int) -> None:
    for cut in range((count + 1) // 2):
        values = np.array(list(itertools.product([0.0, 1.0], repeat=count)))
        wanted = np.sort(values, axis=1)[:, cut : count - cut]
        for low, high in middle_network(count, cut):
            pair = values[:, [low, high]]
            values[:, low], values[:, high] = pair.min(axis=1), pair.max(axis=1)
        np.testing.assert_array_equal(values[:, cut : count - cut], wanted)
        assert len(middle_network(count, cut)) <= len(sorting_network(count))


def content_of(rng: np.random.Generator, dtypes: dict[str, str], like: Any) -> bytes:
    shapes = {name: array.shape for name, array in like.items()}
    return layout.encode(
        {name: rng.normal(size=shapes[name]).astype(dtype) for name, dtype in dtypes.items()}
    )


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("is_same", [True, False])
def test_passes_are_alike_however_arrays_lie(
    monkeypatch: pytest.MonkeyPatch, cores: int, count: int, is_same: bool
) -> None:
    monkeypatch.setattr(means, "usable_cores", lambda: cores)
    monkeypatch.setattr(means, "_LEAST_A_THREAD", 1000)
    rng = np.random.default_rng(5)
    like = {
        "a": np.zeros((3, 70_000)),
        "b": np.zeros(5),
        "empty": np.zeros((0, 4)),
        "half": np.zeros((7, 11)),
        "wide": np.zeros(40),
    }
    kinds = dict.fromkeys(like, "float32") | {"half": "float16", "wide": "float64"}
    contents = []
    for place in range(count):
        mine = kinds | ({} if is_same else {"b": "float64" if place else "float16"})
        contents.append((Key("job", 1, f"d{place}", UPDATE), content_of(rng, mine, like)))
    given = [layout.view(content, "") for _, content in contents]
    weights = rng.normal(size=count)
    asked = {"round": 1, "devices": [], "rounds": [], "trimmed": 0}
    inside = [(key, memoryview(content)) for key, content in contents]
    robust = means.robust(asked | {"rule": "median"}, inside).arrays
    mean = means.personal(asked | {"weights": np.abs(weights).tolist()}, inside).arrays
    assert list(robust) == list(given[0])
    share = np.abs(weights) / np.abs(weights).sum()
    for name, array in robust.items():
        rows = np.array([each[name].astype(np.float64) for each in given])
        assert array.dtype == mean[name].dtype == given[0][name].dtype
        tolerance = 2e-3 if array.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(array, np.median(rows, axis=0), rtol=tolerance, atol=1e-7)
        wanted = np.tensordot(share, rows, axes=1)
        np.testing.assert_allclose(mean[name], wanted, rtol=tolerance, atol=tolerance)
