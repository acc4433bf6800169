"""The rounds of Photon, by a model whose every number can be worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.photon_rounds import (
    BATCH,
    CONTEXT,
    STEPS,
    TRAINING,
    Averages,
    Counting,
    engine_of,
    run,
    server,
)
from support.venn_service import scheduler_by_service

from hocket.fl.core.devices import FifoScheduler
from hocket.fl.core.errors import ConfigError, FederationError, UpdateError
from hocket.fl.core.seeds import derive_seed
from hocket.fl.core.server_optimizer import Sgd
from hocket.fl.core.store import MemoryStore
from hocket.fl.core.types import ClientTask, ClientUpdate, Device, Reply
from hocket.fl.photon import link
from hocket.fl.photon.aggregation import StreamingMean
from hocket.fl.photon.guard import Deadline, Guard, cosine_of, norm_of
from hocket.fl.photon.link import Label, pack, unpack
from hocket.fl.photon.recipe import SERVER_OPTIMIZERS, local_training
from hocket.fl.photon.server import ledger_of


def rewritten(reply: Reply, factor: float = 1.0, round_number: int | None = None) -> ClientUpdate:
    """A reply as an adversary would send it: packed well, of other numbers."""
    assert isinstance(reply, ClientUpdate)
    label = Label("run", reply.round, reply.device_id)
    change = dict(unpack(reply.parameters, label, Averages().parameters()))
    number = reply.round if round_number is None else round_number
    return dataclasses.replace(
        reply,
        round=number,
        parameters=pack(
            Label("run", number, reply.device_id),
            {name: np.float32(factor) * array for name, array in change.items()},
            "float32",
        ),
    )


def test_a_round_is_the_mean_of_what_clients_train() -> None:
    found = run(server(num_rounds=1)).state.parameters
    ends = []
    for name in Counting().device_ids():
        backend = Averages()
        seed = derive_seed(3, "train", 1, name)
        backend.train(TRAINING, Counting().take(name, 0, BATCH * STEPS), seed)
        ends.append(backend.parameters())
    for name, array in found.items():
        wanted = np.mean([end[name].astype(np.float64) for end in ends], axis=0)
        np.testing.assert_allclose(array, wanted, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["float32", "int4"])
def test_the_order_of_replies_does_not_change_a_bit(scheme: str) -> None:
    forward = run(server(scheme=scheme))
    backward = run(server(scheme=scheme, order=lambda tasks: tasks[::-1]))
    assert forward.digest == backward.digest
    assert [each.digest for each in forward.reports] == [each.digest for each in backward.reports]


def test_learning_rates_go_by_the_servers_steps() -> None:
    training = dataclasses.replace(TRAINING, warmup_steps=4, decay_steps=12)
    made = server(training=training, num_rounds=3)
    reports = run(made).reports
    rates = [training.learning_rate_at(step) for step in range(3 * STEPS)]
    wanted = pytest.approx([sum(rates[n : n + STEPS]) for n in (0, 3, 6)])
    assert [report.train_metrics["learning_rate_sum"] for report in reports] == wanted
    assert [report.train_metrics["used"] for report in reports] == wanted


def test_clients_read_on_where_they_were() -> None:
    made = server(sequences=Counting(1), num_rounds=3)
    ledger = ledger_of(run(made).state)
    seen = engine_of(made).client.backend.seen  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(3 * BATCH * STEPS))
    assert ledger.account("client-0").cursor == 3 * BATCH * STEPS
    assert ledger.tokens == 3 * BATCH * STEPS * CONTEXT


def test_what_a_lost_round_was_trained_on_is_read_again_and_counted_once() -> None:
    def lose(task: ClientTask, reply: Reply) -> Reply | None:
        return None if (task.round, task.device_id) == (2, "client-1") else reply

    made = server(lose, num_rounds=3)
    progress = run(made)
    ledger = ledger_of(progress.state)
    cursors = [ledger.account(f"client-{n}").cursor // (BATCH * STEPS) for n in range(4)]
    assert cursors == [3, 2, 3, 3]
    assert ledger.tokens == 11 * BATCH * STEPS * CONTEXT
    assert progress.reports[1].num_failures == 1
    assert "not done in time" in progress.reports[1].failures[0]


def test_only_some_clients_take_part_and_the_seed_says_which() -> None:
    ledgers = [ledger_of(run(server(clients_per_round=2, num_rounds=6)).state) for _ in range(2)]
    assert ledgers[0] == ledgers[1]
    counts = [account.cursor // (BATCH * STEPS) for account in ledgers[0].accounts.values()]
    assert sum(counts) == 12
    assert len(counts) > 2


def test_a_duplicate_is_refused() -> None:
    once = run(server())
    twice = run(server(lambda _, reply: [reply, reply]))
    assert once.digest == twice.digest
    assert "has answered already" in twice.reports[0].failures[0]
    assert ledger_of(twice.state).tokens == ledger_of(once.state).tokens
    assert ledger_of(twice.state).uploaded_bytes == 2 * ledger_of(once.state).uploaded_bytes


def test_a_reply_of_another_round_is_refused() -> None:
    def stale(task: ClientTask, reply: Reply) -> Reply:
        return rewritten(reply, round_number=1) if task.round == 2 else reply

    report = run(server(stale, num_rounds=2)).reports[1]
    assert not report.has_quorum
    assert all("it is of round 1" in each for each in report.failures[1:])


def test_a_relabelled_reply_is_refused_by_its_chunks() -> None:
    kept: dict[str, ClientUpdate] = {}

    def relabel(task: ClientTask, reply: Reply) -> Reply:
        assert isinstance(reply, ClientUpdate)
        if task.round == 1:
            kept[task.device_id] = reply
        return dataclasses.replace(kept[task.device_id], round=task.round)

    report = run(server(relabel, num_rounds=2)).reports[1]
    assert "want an update of" in report.failures[-1]


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(np.nan, "not finite"), (50.0, "its norm is"), (-1.0, "points away"), (1e9, "8 or more")],
)
def test_outliers_are_refused_and_named(factor: float, reason: str) -> None:
    def poison(task: ClientTask, reply: Reply) -> Reply:
        if (task.round, task.device_id) != (3, "client-2"):
            return reply
        if np.isnan(factor):
            assert isinstance(reply, ClientUpdate)
            return dataclasses.replace(reply, parameters=nan_update(reply))
        return rewritten(reply, factor)

    # Norms have another test where numbers are too large for any.
    guard = Guard(max_norm_ratio=0) if factor == 1e9 else Guard()
    found = run(server(poison, guard=guard))
    assert [report.num_updates for report in found.reports] == [4, 4, 3, 4]
    assert reason in found.reports[2].failures[0]
    assert "client-2" in found.reports[2].failures[0]
    assert all(np.isfinite(array).all() for array in found.state.parameters.values())


def nan_update(reply: ClientUpdate) -> dict[str, Any]:
    """An update that says of itself that it is sound, and holds NaN."""
    like = Averages().parameters()
    packed = pack(Label("run", reply.round, reply.device_id), like, "float32")
    text = packed[link.HEADER].tobytes()[32:]
    body = np.full(sum(array.size for array in like.values()), np.nan, np.float32).tobytes()
    return {**packed, "chunk/00000": link._sealed(body, link._place(0, text))}


def test_an_honest_run_is_not_objected_to() -> None:
    assert not any(report.failures for report in run(server(guard=Guard(), num_rounds=8)).reports)


def test_who_says_other_tokens_than_were_asked_for_is_refused() -> None:
    def more(task: ClientTask, reply: Reply) -> Reply:
        assert isinstance(reply, ClientUpdate)
        is_liar = task.device_id == "client-3"
        return dataclasses.replace(reply, num_examples=10**6) if is_liar else reply

    found = run(server(more))
    assert "was to train on" in found.reports[0].failures[0]
    assert "client-3" not in ledger_of(found.state).accounts


def test_without_a_quorum_nothing_moves() -> None:
    def lose(task: ClientTask, reply: Reply) -> Reply | None:
        return reply if task.device_id == "client-0" or task.round != 2 else None

    made = server(lose, num_rounds=2, server_optimizer=Sgd(0.7, 0.9, nesterov=True))
    first = made.run_round(made.begin(Averages().parameters()))
    second = made.run_round(first)
    assert not second.reports[1].has_quorum
    assert second.digest == first.digest
    before, after = ledger_of(first.state), ledger_of(second.state)
    assert (before.accounts, before.steps) == (after.accounts, after.steps)
    for name, array in first.state.kept.items():
        if name != "ledger":
            np.testing.assert_array_equal(second.state.kept[name], array)


@pytest.mark.parametrize("keep_optimizer", [False, True])
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_a_run_that_is_killed_goes_on_with_the_same_bits(keep_optimizer: bool, scheme: str) -> None:
    """Killed in the third round, after some clients were done with it and had kept their state."""
    parts = {
        "training": dataclasses.replace(TRAINING, keep_optimizer=keep_optimizer),
        "scheme": scheme,
        "server_optimizer": SERVER_OPTIMIZERS["diloco"],
        "guard": Guard(),
        "num_rounds": 5,
    }

    class KilledError(BaseException):
        pass

    def kill(task: ClientTask, reply: Reply) -> Reply:
        if (task.round, task.device_id) == (3, "client-2"):
            raise KilledError
        return reply

    whole, store = run(server(**parts)), MemoryStore()
    with pytest.raises(KilledError):
        run(server(kill, store=store, **parts))
    again = server(store=store, **parts)
    resumed = again.resume()
    assert resumed.round == 2
    found = again.run(resumed)
    assert found.digest == whole.digest
    assert found.state.kept.keys() == whole.state.kept.keys()
    for name, array in whole.state.kept.items():
        if name != "ledger":  # in which a clock's times are
            np.testing.assert_array_equal(found.state.kept[name], array, err_msg=name)
    assert ledger_of(found.state).accounts == ledger_of(whole.state).accounts


def test_a_kept_optimizer_and_a_new_one_are_not_the_same() -> None:
    kept = dataclasses.replace(TRAINING, keep_optimizer=True)
    assert run(server(training=kept)).digest != run(server()).digest


def test_what_is_lost_in_int4_is_made_up_for() -> None:
    """With error feedback the model stays close, round for round."""
    exact, coarse = run(server(num_rounds=8)), run(server(num_rounds=8, scheme="int4"))
    for name, array in exact.state.parameters.items():
        moved = np.abs(array - Averages().parameters()[name]).max()
        assert np.abs(coarse.state.parameters[name] - array).max() < 0.02 * moved


def test_clients_keep_only_what_a_round_may_go_on_from() -> None:
    made = server(scheme="int8", num_rounds=5)
    run(made)
    rounds = {key.round for key in made.store.keys("run/") if key.kind == "client-state"}
    assert rounds == {4, 5}


def test_another_model_than_the_servers_is_refused() -> None:
    made = server(num_rounds=1)
    (task, *_) = made._tasks(1, Averages().parameters(), ledger_of(run(made).state))
    other = {name: array + 1 for name, array in Averages().parameters().items()}
    with pytest.raises(UpdateError, match="not the one that the server has"):
        engine_of(made).client.run(task, other)


def test_rounds_wait_as_long_as_the_slowest_took_some_times() -> None:
    deadline = Deadline(factor=2, least_seconds=1, first_seconds=99, min_history=4)
    made = server(deadline=deadline, num_rounds=3)
    progress = run(made)
    slowest = max(ledger_of(progress.state).arrivals[:4])
    assert engine_of(made).timeouts[:2] == [99, 2 * slowest]


def test_a_run_of_other_settings_is_not_resumed() -> None:
    made = server()
    run(made)
    other = dataclasses.replace(made, plan=dataclasses.replace(made.plan, fingerprint="other"))
    with pytest.raises(FederationError, match="other settings"):
        other.resume()


def test_fed_mom_is_nesterovs_momentum() -> None:
    """Huo et al. 2020, algorithm 2: v' = w - eta D; w' = v' + beta (v' - v)."""
    generator = np.random.default_rng(0)
    optimizer = SERVER_OPTIMIZERS["fedmom"]
    model = velocity = ours = generator.standard_normal(7)
    kept = optimizer.start({"w": ours})
    for _ in range(6):
        change = generator.standard_normal(7)
        following = model + 1.0 * change
        model, velocity = following + 0.9 * (following - velocity), following
        steps, kept = optimizer.step({"w": change}, kept)
        ours = ours + steps["w"]
        np.testing.assert_allclose(ours, model, rtol=1e-12)


def test_the_recipe_stretches_schedules_and_not_rates() -> None:
    """The 125M example: 8 clients of 32 sequences, as one of 256."""
    found = local_training(32, 256, 6e-4, 100, 5_120)
    assert (found.learning_rate, found.warmup_steps, found.decay_steps) == (6e-4, 800, 40_960)
    with pytest.raises(ConfigError, match="local_batch"):
        local_training(300, 256, 6e-4, 100, 5_120)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 2**31)), min_size=1, max_size=6),
    st.randoms(),
)
def test_a_streamed_mean_is_exact_and_knows_no_order(
    parts: list[tuple[int, int]], shuffle: Any
) -> None:
    changes = [
        (np.random.default_rng(seed).uniform(-2, 2, 9).astype(np.float32), weight)
        for weight, seed in parts
    ]
    means = []
    for _ in range(2):
        mean = StreamingMean({"a": changes[0][0]}, sum(weight for weight, _ in parts))
        for array, weight in changes:
            mean.add({"a": array}, weight)
        means.append(mean.mean()["a"])
        shuffle.shuffle(changes)
    np.testing.assert_array_equal(means[0], means[1])
    wanted = np.average([array for array, _ in changes], axis=0, weights=[w for _, w in changes])
    np.testing.assert_allclose(means[0], wanted, atol=1e-13)


def test_a_mean_takes_no_more_than_it_was_made_for() -> None:
    like = {"a": np.zeros(2, np.float32)}
    mean = StreamingMean(like, 5)
    mean.add(like, 3)
    for weight in (0, 3):
        with pytest.raises(UpdateError, match="weights"):
            mean.add(like, weight)
    with pytest.raises(UpdateError, match="8 or more"):
        mean.add({"a": np.array([0, -8], np.float32)}, 1)
    assert mean.weight == 3
    with pytest.raises(UpdateError, match="no updates"):
        StreamingMean(like, 5).mean()


def test_norms_and_cosines_are_of_all_arrays_together() -> None:
    one = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    other = {"a": np.array([0.0, 7.0]), "b": np.array([[-1.0]])}
    assert norm_of(one) == 5
    assert cosine_of(one, other) == pytest.approx(-4 / (5 * np.sqrt(50)))


def test_a_service_gives_the_clients_that_the_server_would_ask_by_itself() -> None:
    plain = server(clients_per_round=2)
    shared = dataclasses.replace(server(clients_per_round=2), scheduler=scheduler_by_service())
    assert run(shared).digest == run(plain).digest


def test_only_clients_that_the_scheduler_gives_are_asked() -> None:
    class OnlyTheFirst(FifoScheduler):
        def offer(self, device: Device) -> str | None:
            return super().offer(device) if device.device_id == "client-0" else None

    found = run(dataclasses.replace(server(), scheduler=OnlyTheFirst()))
    assert [report.num_tasks for report in found.reports] == [1] * 4
    assert ledger_of(found.state).account("client-0").last_round == 4
