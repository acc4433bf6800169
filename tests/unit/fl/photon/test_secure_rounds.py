"""Rounds whose server sees sums alone, and rounds with noise, through the server itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from support.photon_rounds import Averages, Change, Counting, engine_of, run, server

from hocket.fl.core.client import run_safely
from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.core.store import MemoryStore
from hocket.fl.core.types import ClientFailure, ClientTask, ClientUpdate, Reply
from hocket.fl.photon.client import PhotonClient
from hocket.fl.photon.lattice import Secure
from hocket.fl.photon.noise import SecretNoise
from hocket.fl.photon.privacy import Privacy
from hocket.fl.photon.secure_client import (
    KEYS,
    PEERS,
    PHASE,
    REVEAL,
    SHARES,
    SURVIVORS,
    THRESHOLD,
    UPDATE,
    SecureClient,
)
from hocket.fl.photon.server import ledger_of

# Where there is next to no noise, Opacus would like to try smaller orders.
pytestmark = pytest.mark.filterwarnings("ignore:Optimal order")

FINE = Secure(bits=32, threshold=0.5)


def losing(phase: str, *names: str, at_round: int = 2) -> Change:
    """A script in which clients are gone in one task of a secure round."""

    def change(task: ClientTask, reply: Reply) -> Reply | None:
        is_lost = task.config[PHASE] == phase and task.device_id in names
        return None if is_lost and task.round == at_round else reply

    return change


def far(one: Any, other: Any) -> float:
    pairs = ((one.state.parameters[name], other.state.parameters[name]) for name in ("w", "b"))
    return max(float(np.abs(mine - others).max()) for mine, others in pairs)


def test_a_secret_sum_is_the_mean_that_a_seeing_server_has() -> None:
    plain, secret = run(server(num_rounds=5)), run(server(secure=FINE, num_rounds=5))
    assert not any(report.failures for report in secret.reports)
    assert far(plain, secret) < 1e-6
    accounts = ledger_of(secret.state).accounts
    assert accounts == ledger_of(plain.state).accounts


def test_few_bits_are_made_up_for() -> None:
    exact = run(server(num_rounds=12))
    coarse = run(server(secure=Secure(bits=8), num_rounds=12))
    moved = np.abs(exact.state.parameters["w"] - Averages().parameters()["w"]).max()
    assert far(exact, coarse) < 0.05 * moved


def test_changes_beyond_the_lattice_are_sent_later() -> None:
    """A little of what clients learn fits in a round: the rest follows."""
    slow = Secure(bits=32, largest_change=2e-4)
    first, last = (run(server(secure=slow, num_rounds=number)) for number in (1, 2))
    assert np.abs(first.state.parameters["w"]).max() == pytest.approx(2e-4, rel=1e-6)
    assert np.abs(last.state.parameters["w"]).max() == pytest.approx(4e-4, rel=1e-6)


@pytest.mark.parametrize("phase", [KEYS, SHARES, UPDATE, REVEAL])
def test_a_client_that_is_lost_costs_its_round(phase: str) -> None:
    """Wherever it is lost, the sum is that of those whose updates came."""
    secret = run(server(losing(phase, "client-2"), secure=FINE, num_rounds=3))
    assert [report.has_quorum for report in secret.reports] == [True] * 3
    report = secret.reports[1]
    assert report.num_updates == (4 if phase == REVEAL else 3)
    assert "client-2 in round 2 failed: it was not done in time" in report.failures[0]

    def lose(task: ClientTask, reply: Reply) -> Reply | None:
        return None if (task.round, task.device_id) == (2, "client-2") else reply

    wanted = run(server(None if phase == REVEAL else lose, num_rounds=3))
    assert far(secret, wanted) < 1e-6
    assert ledger_of(secret.state).accounts == ledger_of(wanted.state).accounts


@pytest.mark.parametrize("phase", [KEYS, SHARES, UPDATE, REVEAL])
def test_without_the_threshold_nothing_moves_and_it_is_said(phase: str) -> None:
    made = server(losing(phase, "client-1", "client-2"), secure=FINE, num_rounds=3, quorum=0.25)
    found = run(made)
    report = found.reports[1]
    assert not report.has_quorum
    assert report.digest == found.reports[0].digest
    if phase in (UPDATE, REVEAL):
        assert any("3 are needed: the sum stays hidden" in each for each in report.failures)
    assert found.reports[2].has_quorum
    accounts = ledger_of(found.state).accounts
    assert {account.cursor for account in accounts.values()} == {12}


def test_secrets_are_gone_when_a_round_is_over() -> None:
    made = server(secure=FINE, num_rounds=2)
    run(made)
    assert [key for key in made.store.keys("run/") if key.kind == "secrets"] == []


def recorded() -> tuple[list[tuple[ClientTask, Any]], SecureClient]:
    """Every task of a round with what came with it, and a client whose store is as it was then."""
    seen: list[tuple[ClientTask, Any]] = []

    class Recorder(SecureClient):
        def run(self, task: ClientTask, parameters: Any) -> ClientUpdate:
            seen.append((task, parameters))
            return super().run(task, parameters)

    made = server(secure=FINE, num_rounds=1)
    client = engine_of(made).client
    engine_of(made).client = Recorder(PhotonClient(Averages(), Counting(), client.store))
    run(made)
    return [each for each in seen if each[0].device_id == "client-0"], client


def test_a_client_gives_no_secret_twice() -> None:
    tasks, _ = recorded()
    (keys, shares, update, reveal) = tasks
    client = SecureClient(PhotonClient(Averages(), Counting(), MemoryStore()))
    assert isinstance(run_safely(client, *keys), ClientUpdate)
    # With keys of its own, what others had shared with it before is of no use.
    failed = run_safely(client, *shares)
    assert "its keys are not those that it gave" in str(failed)
    for phase in (update, reveal):
        assert isinstance(run_safely(client, *phase), ClientFailure)


def test_masks_are_used_once_and_shares_given_once() -> None:
    made = server(secure=FINE, num_rounds=1)
    twice: list[Reply] = []
    client = engine_of(made).client
    real = client.run

    def run_twice(task: ClientTask, parameters: Any) -> ClientUpdate:
        found = real(task, parameters)
        if task.device_id == "client-0" and task.config[PHASE] != KEYS:
            with pytest.raises(UpdateError) as raised:
                real(task, parameters)
            twice.append(str(raised.value))
        return found

    client.run = run_twice  # type: ignore[method-assign]
    assert run(made).reports[0].num_updates == 4
    assert "shares have been handed round already" in twice[0]
    assert "the masks of this round have been used" in twice[1]
    assert "keeps no secrets of this round" in twice[2]


def test_a_server_that_lowers_the_threshold_learns_nothing() -> None:
    """What a client goes by is how many were needed when it handed its shares round."""
    made = server(secure=FINE, num_rounds=1)
    client = engine_of(made).client
    real, refused = client.run, []

    def ask_greedily(task: ClientTask, parameters: Any) -> ClientUpdate:
        me = task.device_id
        if task.config[PHASE] == UPDATE and me == "client-0":
            with pytest.raises(UpdateError) as raised:
                real(dataclasses.replace(task, config={**task.config, PEERS: me}), parameters)
            refused.append(str(raised.value))
        if task.config[PHASE] == REVEAL and me == "client-0":
            greedy = {**task.config, SURVIVORS: me, THRESHOLD: 1}
            with pytest.raises(UpdateError) as raised:
                real(dataclasses.replace(task, config=greedy), parameters)
            refused.append(str(raised.value))
        return real(task, parameters)

    client.run = ask_greedily  # type: ignore[method-assign]
    assert run(made).reports[0].has_quorum
    assert "too few would hide its change" in refused[0]
    assert "gives no shares for a sum of ['client-0']" in refused[1]


def test_a_secure_client_sends_nothing_without_masks() -> None:
    made = server(num_rounds=1)
    client = SecureClient(PhotonClient(Averages(), Counting(), MemoryStore()))
    engine_of(made).client = client
    report = run(made).reports[0]
    assert not report.has_quorum
    assert "under masks alone" in report.failures[1]


def test_an_update_that_is_not_masked_is_refused() -> None:
    made = server(secure=FINE, num_rounds=1)
    plain = engine_of(server(num_rounds=1)).client

    def unmask(task: ClientTask, reply: Reply) -> Reply:
        if task.config[PHASE] != UPDATE or task.device_id != "client-3":
            return reply
        config = {**task.config, "photon_scheme": "float32"}
        return run_safely(plain, dataclasses.replace(task, config=config), Averages().parameters())

    engine_of(made).change = unmask
    report = run(made).reports[0]
    assert report.num_updates == 3
    assert "want it in masked32, got float32" in report.failures[0]


def test_what_a_server_sees_of_one_client_is_not_its_change() -> None:
    seen: dict[str, np.ndarray] = {}

    def look(task: ClientTask, reply: Reply) -> Reply:
        if task.config[PHASE] == UPDATE:
            assert isinstance(reply, ClientUpdate)
            chunk = reply.parameters["chunk/00000"].tobytes()[32:]
            seen[task.device_id] = np.frombuffer(chunk, "<i4")
        return reply

    found = run(server(look, secure=FINE, num_rounds=1))
    total = np.add.reduce(list(seen.values()), dtype=np.int32)
    (w, b) = (found.state.parameters[name] for name in ("w", "b"))
    assert np.abs(b - 1).max() > 0 < np.abs(w).max()
    for numbers in (*seen.values(), total):
        # Of an even spread the mean size is 2**30; of the changes, on this lattice, 2**24 or less.
        assert np.abs(numbers.astype(float)).mean() > 2**28


def test_bytes_of_all_tasks_are_counted() -> None:
    size = sum(array.size for array in Averages().parameters().values())
    found = ledger_of(run(server(secure=Secure(bits=16), num_rounds=1)).state)
    updates = 4 * (2 * size)
    # Headers and digests, 4 sets of keys, 16 sealed shares, 16 opened ones.
    assert found.uploaded_bytes > updates + 4 * 96 + 16 * 100 + 16 * 36
    assert found.uploaded_bytes < updates + 4 * 96 + 16 * 100 + 16 * 36 + 4 * 400
    assert found.downloaded_bytes == 4 * (4 * size + 4 * 96 + 16 * 100)


def test_privacy_wants_a_trusted_server_or_secret_sums() -> None:
    with pytest.raises(ConfigError, match="sums must be secret"):
        server(privacy=Privacy(1.0, 1.0, noise_by="clients"))


@pytest.mark.parametrize("secure", [None, FINE], ids=["seen", "secret"])
def test_a_servers_noise_is_of_the_stated_scale(secure: Secure | None) -> None:
    clip, multiplier, rounds = 0.05, 2.0, 25
    privacy = Privacy(clip, multiplier)
    made = server(privacy=privacy, secure=secure, num_rounds=rounds)
    quiet = server(privacy=Privacy(clip, 1e-9), secure=secure, num_rounds=rounds)
    found, wanted = run(made), run(quiet)
    spread = [found.state.parameters[name] - wanted.state.parameters[name] for name in ("w", "b")]
    # The model forgets noise, at each round, no faster than clients move: less than clip.
    noise = np.concatenate([each.ravel() for each in spread])
    scale = multiplier * clip / 4 * np.sqrt(rounds)
    assert 0.3 * scale < noise.std() < 2 * scale
    epsilon = found.reports[-1].train_metrics["epsilon"]
    assert epsilon == pytest.approx(privacy.epsilon(rounds))
    # Nothing that clients say of their data goes round the noise.
    assert not {"used", "change_norm", "cosine_with_last"} & found.reports[-1].train_metrics.keys()


@pytest.mark.parametrize("secure", [None, FINE], ids=["seen", "secret"])
def test_what_is_too_long_is_clipped_and_not_refused(secure: Secure | None) -> None:
    """By the client itself, where the server sees no length."""
    found = run(server(privacy=Privacy(1e-3, 1e-9), secure=secure, num_rounds=1))
    assert found.reports[0].num_updates == 4
    start = Averages().parameters()
    moved = np.sqrt(
        sum(
            float(((array - start[name]) ** 2).sum())
            for name, array in found.state.parameters.items()
        )
    )
    assert 0.9e-3 < moved <= 1e-3


def test_a_server_clips_what_clients_did_not() -> None:
    honest = run(server(privacy=Privacy(1e-3, 1e-9), num_rounds=1))
    made = server(privacy=Privacy(1e-3, 1e-9), num_rounds=1)
    client = engine_of(made).client
    real = client.run

    def unclipped(task: ClientTask, parameters: Any) -> ClientUpdate:
        config = {name: value for name, value in task.config.items() if name != "photon_clip"}
        return real(dataclasses.replace(task, config=config), parameters)

    client.run = unclipped  # type: ignore[method-assign]
    assert far(run(made), honest) < 1e-8


def test_clients_noise_is_in_the_sum_alone_and_enough() -> None:
    """By keys of the test it can be drawn again: the sum is off by their noise, exactly."""
    privacy, keys = Privacy(0.5, 4.0, noise_by="clients"), iter(range(1, 5))
    made = server(secure=Secure(bits=32, threshold=0.75), privacy=privacy, num_rounds=1)
    engine_of(made).client = SecureClient(
        PhotonClient(Averages(), Counting(), made.store),
        lambda: SecretNoise(bytes([next(keys)] * 32)),
    )
    found = run(made)
    quiet = run(server(secure=Secure(bits=32), privacy=Privacy(0.5, 1e-9), num_rounds=1))
    noise = np.concatenate(
        [
            (found.state.parameters[name] - quiet.state.parameters[name]).ravel()
            for name in ("b", "w")
        ]
    )
    # Three of four must stay to the end: three have noise enough, and four answered.
    lattice_noise = np.zeros(17)
    step = None
    for key in range(1, 5):
        drawn = SecretNoise(bytes([key] * 32))
        step = step or _step_of(privacy)
        scale = privacy.scale / np.sqrt(3) / step
        lattice_noise += np.concatenate([drawn.draw(scale, 5), drawn.draw(scale, 12)])
    np.testing.assert_allclose(noise, lattice_noise * step / 4, atol=1e-5)
    epsilon = found.reports[0].train_metrics["epsilon"]
    assert epsilon == pytest.approx(privacy.epsilon(1), rel=1e-6)


def _step_of(privacy: Privacy) -> float:
    from hocket.fl.photon.lattice import Lattice

    noise = privacy.scale / np.sqrt(3) * np.sqrt(4)
    return Lattice.for_sum(4, min(privacy.clip_norm, 0.3), 32, noise).step
