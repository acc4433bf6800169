"""Masked sums: exactly the plain sum whoever is lost, and nothing of anyone besides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.fl.core.errors import ConfigError, UpdateError
from hocket.fl.photon.secure_sum import Public, Secrets, mask, reveal, share_out, unmask

CONTEXT = "job/1"
TYPES = st.sampled_from([np.uint8, np.uint16, np.uint32])


class Clients:
    """Clients that have handed their shares round, and what they would add up."""

    def __init__(self, count: int, threshold: int, kind: type = np.uint16, seed: int = 0) -> None:
        self.names = [f"client-{number:02d}" for number in range(count)]
        self.threshold = threshold
        self.secrets = {name: Secrets.draw() for name in self.names}
        self.publics = {name: kept.public() for name, kept in self.secrets.items()}
        self.sealed = {
            name: share_out(kept, name, self.publics, threshold, CONTEXT)
            for name, kept in self.secrets.items()
        }
        generator = np.random.default_rng(seed)
        top = np.iinfo(kind).max
        self.numbers = {
            name: {
                "w": generator.integers(0, top, (3, 5), kind, endpoint=True),
                "b": generator.integers(0, top, 4, kind, endpoint=True),
            }
            for name in self.names
        }

    def masked(self, name: str) -> dict[str, np.ndarray]:
        return mask(self.numbers[name], self.secrets[name], name, self.publics, CONTEXT)

    def reveal(self, name: str, survivors: list[str]) -> dict[str, bytes]:
        sealed = {other: self.sealed[other][name] for other in self.names}
        kept = self.secrets[name]
        return reveal(kept, name, self.publics, sealed, survivors, self.threshold, CONTEXT)

    def unmask(
        self, survivors: list[str], revealed: dict[str, dict[str, bytes]]
    ) -> dict[str, np.ndarray]:
        total = add(self.masked(name) for name in survivors)
        return unmask(total, self.publics, survivors, revealed, self.threshold, CONTEXT)


def add(parts) -> dict[str, np.ndarray]:
    parts = list(parts)
    return {
        name: np.add.reduce([each[name] for each in parts], dtype=parts[0][name].dtype)
        for name in parts[0]
    }


@settings(max_examples=25, deadline=None)
@given(st.data(), TYPES)
def test_the_sum_is_the_plain_one_whoever_is_lost(data: st.DataObject, kind: type) -> None:
    count = data.draw(st.integers(2, 7))
    threshold = data.draw(st.integers(max(2, count // 2 + 1), count))
    clients = Clients(count, threshold, kind, data.draw(st.integers(0, 99)))
    names = st.permutations(clients.names)
    survivors = data.draw(names)[: data.draw(st.integers(threshold, count))]
    # Some are lost after their numbers came, too.
    givers = data.draw(st.permutations(survivors))
    givers = givers[: data.draw(st.integers(threshold, len(givers)))]
    revealed = {name: clients.reveal(name, survivors) for name in givers}
    found = clients.unmask(survivors, revealed)
    wanted = add(clients.numbers[name] for name in survivors)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == kind


def test_too_few_at_the_end_leave_the_sum_hidden() -> None:
    clients = Clients(5, 3)
    survivors = clients.names[:4]
    revealed = {name: clients.reveal(name, survivors) for name in survivors[:2]}
    with pytest.raises(UpdateError, match="2 clients gave shares of the masks, 3 are needed"):
        clients.unmask(survivors, revealed)
    # Nor do their shares make the secret in a sum of fewer: a mask stays on.
    clients.threshold = 2
    with pytest.raises(UpdateError, match=r"shares of client-00's own mask are wrong"):
        clients.unmask(survivors, revealed)


def test_no_client_gives_shares_for_a_sum_of_few() -> None:
    clients = Clients(5, 3)
    with pytest.raises(UpdateError, match="want itself and 3 or more"):
        clients.reveal("client-00", clients.names[:2])
    with pytest.raises(UpdateError, match="gives no shares"):
        clients.reveal("client-04", clients.names[:3])
    with pytest.raises(UpdateError, match="gives no shares"):
        clients.reveal("client-00", [*clients.names[:3], "nobody"])


def test_a_group_of_half_is_no_threshold() -> None:
    for count, threshold in ((4, 2), (5, 2), (3, 4), (2, 1)):
        with pytest.raises(ConfigError, match="more than half of the clients"):
            Clients(count, threshold)


def test_what_one_client_sends_says_nothing_of_its_numbers() -> None:
    """Masked zeros are as even as noise, and no two sendings are alike, bit for bit."""
    names = ["a", "b", "c"]
    secrets = {name: Secrets.draw() for name in names}
    publics = {name: kept.public() for name, kept in secrets.items()}
    plain = {"w": np.zeros(1 << 16, np.uint8)}
    masked = {name: mask(plain, secrets[name], name, publics, CONTEXT)["w"] for name in names}
    for array in masked.values():
        counts = np.bincount(array, minlength=256)
        # Chi-square of 255 degrees: its mean is 255, and it is beyond 450 once in 10**13.
        assert ((counts - 256) ** 2 / 256).sum() < 450
    # The common masks alone would fall away in the sum; those of their own do not.
    assert (np.add.reduce(list(masked.values()), dtype=np.uint8) == 0).mean() < 0.01
    again = mask(plain, secrets["a"], "a", publics, "job/2")["w"]
    assert (again == masked["a"]).mean() < 0.01


def test_shares_are_the_receivers_alone() -> None:
    clients = Clients(3, 2)
    swapped = {other: clients.sealed[other]["client-01"] for other in clients.names}
    with pytest.raises(UpdateError, match="tampered with"):
        reveal(
            clients.secrets["client-00"],
            "client-00",
            clients.publics,
            swapped,
            clients.names,
            2,
            CONTEXT,
        )
    with pytest.raises(UpdateError, match="tampered with"):
        reveal(
            clients.secrets["client-00"], "client-00", clients.publics, {}, clients.names, 2, "x/2"
        )


def test_wrong_shares_are_found_out() -> None:
    clients = Clients(4, 3)
    survivors = clients.names[:3]
    revealed = {name: clients.reveal(name, survivors) for name in survivors}
    for victim, reason in (("client-00", "own mask are wrong"), ("client-03", "key are wrong")):
        share = bytearray(revealed["client-01"][victim])
        share[9] ^= 1
        lies = {**revealed, "client-01": {**revealed["client-01"], victim: bytes(share)}}
        with pytest.raises(UpdateError, match=f"{victim}'s {reason}"):
            clients.unmask(survivors, lies)
    twice = {**revealed, "client-01": revealed["client-02"]}
    with pytest.raises(UpdateError, match="are of one place"):
        clients.unmask(survivors, twice)
    short = {**revealed, "client-01": {}}
    with pytest.raises(UpdateError, match="missing or of another size"):
        clients.unmask(survivors, short)


def test_keys_survive_the_wire_and_damaged_ones_are_refused() -> None:
    public = Secrets.draw().public()
    assert Public.from_array(public.to_array(), "x") == public
    with pytest.raises(UpdateError, match="want 96 bytes of keys"):
        Public.from_array(public.to_array()[:-1], "x")
    with pytest.raises(UpdateError, match="want an array of bytes"):
        Public.from_array(np.zeros(96), "x")
    secrets = Secrets.draw()
    assert Secrets.from_array(secrets.to_array()) == secrets
    assert secrets.own.hex() not in repr(secrets)


def test_another_clients_keys_in_its_place_are_noticed() -> None:
    clients = Clients(3, 2)
    publics = {**clients.publics, "client-00": Secrets.draw().public()}
    with pytest.raises(UpdateError, match="not those that it gave"):
        share_out(clients.secrets["client-00"], "client-00", publics, 2, CONTEXT)


def test_a_public_key_of_no_order_is_refused() -> None:
    clients = Clients(3, 2)
    zero = Public(bytes(32), bytes(32), bytes(32))
    with pytest.raises(UpdateError, match="a public key is none"):
        share_out(
            clients.secrets["client-00"],
            "client-00",
            {**clients.publics, "client-01": zero},
            2,
            CONTEXT,
        )
