"""Sums whose parts nobody sees but who sent them (Bonawitz et al. 2017, the protocol of figure 4).

Every client adds to its whole numbers a mask of its own, and one for each other client that the two
of them add with opposite signs; numbers and masks wrap around at a power of two, so that a masked
number says nothing. Shares of the seeds (Shamir 1979) lie with all clients. Those that are left in
the end give the server, of each client whose numbers came, shares of its own mask's seed, and of
each that was lost, shares of the key of its common masks; never both of one client. So the server
can take all masks off the sum and none off a part of it.

The server is trusted to follow the protocol, not to be blind: it hands round the public keys, and
one that handed out keys of its own making could read along.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hocket.fl.core.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_KEY_BYTES = 32
_NONCE_BYTES = 12
# Shamir's field has 2**128 elements, so a seed or a key is shared in two halves.
_HALF_BYTES = 16
_INDEX_BYTES = 4
_SHARE_BYTES = _INDEX_BYTES + 2 * _HALF_BYTES
_OWN, _COMMON = b"own", b"common"

LEAST_CLIENTS = 2
"""A sum of fewer is no secret."""


@dataclass(frozen=True)
class Public:
    """What a client shows of a round's secrets.

    Attributes:
        sealing: Key by which others send it what only it can read.
        masking: Key from which it and another client get the seed of their common mask.
        commitment: SHA-256 of its own mask's seed, by which wrong shares are found out.
    """

    sealing: bytes
    masking: bytes
    commitment: bytes

    def to_array(self) -> NDArray[np.uint8]:
        """Return it as bytes."""
        return np.frombuffer(self.sealing + self.masking + self.commitment, np.uint8)

    @classmethod
    def from_array(cls, array: NDArray[Any], origin: str) -> Public:
        """Return what ``to_array`` made bytes of.

        Raises:
            UpdateError: It made none like it.
        """
        content = _bytes_of(array, origin)
        if len(content) != 3 * _KEY_BYTES:
            raise UpdateError(f"{origin}: want {3 * _KEY_BYTES} bytes of keys, got {len(content)}")
        return cls(*(content[at : at + _KEY_BYTES] for at in range(0, 3 * _KEY_BYTES, _KEY_BYTES)))


@dataclass(frozen=True, repr=False)
class Secrets:
    """What a client keeps to itself in a round: two keys, and the seed of its own mask."""

    sealing: bytes
    masking: bytes
    own: bytes

    @classmethod
    def draw(cls) -> Secrets:
        """Return new ones, from the operating system's randomness."""
        return cls(*(secrets.token_bytes(_KEY_BYTES) for _ in range(3)))

    @classmethod
    def from_array(cls, array: NDArray[Any]) -> Secrets:
        """Return what ``to_array`` made bytes of."""
        content = array.tobytes()
        return cls(*(content[at : at + _KEY_BYTES] for at in range(0, 3 * _KEY_BYTES, _KEY_BYTES)))

    def to_array(self) -> NDArray[np.uint8]:
        """Return them as bytes, for the client's own disk."""
        return np.frombuffer(self.sealing + self.masking + self.own, np.uint8)

    def public(self) -> Public:
        """Return what others may see."""
        return Public(
            _public_key(self.sealing), _public_key(self.masking), hashlib.sha256(self.own).digest()
        )


def share_out(
    kept: Secrets, me: str, publics: Mapping[str, Public], threshold: int, context: str
) -> dict[str, bytes]:
    """Return a client's sealed shares, by the client that can open them; itself included.

    Args:
        kept: The client's secrets.
        me: Its name.
        publics: Of all clients of the round, by name.
        threshold: Shares that it takes to know a secret.
        context: Of which job and round this is.

    Raises:
        ConfigError: The threshold is out of range.
        UpdateError: The client's own keys are not among the others'.
    """
    names = sorted(publics)
    # With half of them or fewer, a server could get one secret from each of two groups.
    least = max(LEAST_CLIENTS, len(names) // 2 + 1)
    if not least <= threshold <= len(names):
        raise ConfigError(
            f"the threshold must be from {least} to {len(names)}, more than half of the clients, "
            f"got {threshold}"
        )
    if publics.get(me) != kept.public():
        raise UpdateError(f"{me}: its keys are not those that it gave")
    own, masking = (_split(secret, threshold, len(names)) for secret in (kept.own, kept.masking))
    return {
        name: _seal(kept, publics[name], own[at] + masking[at], f"{context} {me} {name}")
        for at, name in enumerate(names)
    }


def mask(
    numbers: Mapping[str, NDArray[Any]],
    kept: Secrets,
    me: str,
    publics: Mapping[str, Public],
    context: str,
) -> dict[str, NDArray[Any]]:
    """Return whole numbers with all masks on.

    Args:
        numbers: Unsigned, by name; they wrap around at the power of two of their type.
        kept: The client's secrets.
        me: Its name.
        publics: Of the clients that have shared their secrets out, itself included.
        context: Of which job and round this is.
    """
    found = {name: array.copy() for name, array in numbers.items()}
    _add(found, _Mask(kept.own, _OWN, context), 1)
    for name in sorted(publics.keys() - {me}):
        seed = _agree(kept.masking, publics[name].masking)
        _add(found, _Mask(seed, _COMMON, context), 1 if me < name else -1)
    return found


def reveal(
    kept: Secrets,
    me: str,
    publics: Mapping[str, Public],
    sealed: Mapping[str, bytes],
    survivors: Iterable[str],
    threshold: int,
    context: str,
) -> dict[str, bytes]:
    """Return a client's shares that take the masks off the sum, by whose secrets they are of.

    Args:
        kept: The client's secrets.
        me: Its name.
        publics: Of the clients that have shared their secrets out.
        sealed: Their shares for this client.
        survivors: Those whose numbers came.
        threshold: Of them, at least.
        context: Of which job and round this is.

    Raises:
        UpdateError: Too few survived to hide one in their sum, the client is none of them, or a
            share was tampered with.
    """
    alive = set(survivors)
    if len(alive) < threshold or not alive <= publics.keys() or me not in alive:
        raise UpdateError(
            f"{me}: it gives no shares for a sum of {sorted(alive)}: want itself and "
            f"{threshold} or more of {sorted(publics)}"
        )
    found = {}
    for name in sorted(publics):
        shares = _open(kept, publics[name], sealed.get(name, b""), f"{context} {name} {me}")
        found[name] = shares[:_SHARE_BYTES] if name in alive else shares[_SHARE_BYTES:]
    return found


def unmask(
    total: Mapping[str, NDArray[Any]],
    publics: Mapping[str, Public],
    survivors: Iterable[str],
    revealed: Mapping[str, Mapping[str, bytes]],
    threshold: int,
    context: str,
) -> dict[str, NDArray[Any]]:
    """Return the sum of the survivors' numbers, without masks.

    Args:
        total: The sum of their masked numbers.
        publics: Of the clients that have shared their secrets out.
        survivors: Those whose numbers are in the sum.
        revealed: What clients gave in the end, by client, then by whose secrets it is of.
        threshold: Shares that it takes to know a secret.
        context: Of which job and round this is.

    Raises:
        UpdateError: Fewer than the threshold gave shares, or shares are wrong.
    """
    if len(revealed) < threshold:
        raise UpdateError(
            f"{len(revealed)} clients gave shares of the masks, {threshold} are needed: the sum "
            "stays hidden"
        )
    alive = set(survivors)
    givers = sorted(revealed)[:threshold]
    found = {name: array.copy() for name, array in total.items()}
    for name in sorted(publics):
        secret = _combine([revealed[giver].get(name, b"") for giver in givers], name)
        if name in alive:
            if hashlib.sha256(secret).digest() != publics[name].commitment:
                raise UpdateError(f"the shares of {name}'s own mask are wrong")
            _add(found, _Mask(secret, _OWN, context), -1)
            continue
        if _public_key(secret) != publics[name].masking:
            raise UpdateError(f"the shares of {name}'s key are wrong")
        for other in sorted(alive):
            seed = _agree(secret, publics[other].masking)
            # What the survivor added, with the opposite sign.
            _add(found, _Mask(seed, _COMMON, context), -1 if other < name else 1)
    return found


class _Mask:
    """Numbers as many as are asked for, from a seed."""

    def __init__(self, seed: bytes, purpose: bytes, context: str) -> None:
        key = _derive(seed, b"mask " + purpose + b" " + context.encode())
        # A key is used for one stream, so its nonce may be what it will.
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def take(self, like: NDArray[Any]) -> NDArray[Any]:
        """Return the next numbers, of the type and shape of an array."""
        content = self._stream.update(bytes(like.nbytes))
        return np.frombuffer(content, like.dtype.newbyteorder("<")).reshape(like.shape)


def _add(total: dict[str, NDArray[Any]], stream: _Mask, sign: int) -> None:
    for name in sorted(total):
        array = total[name]
        numbers = stream.take(array)
        # Unsigned numbers of NumPy wrap around.
        total[name] = array + numbers if sign > 0 else array - numbers


def _public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _agree(private: bytes, public: bytes) -> bytes:
    try:
        other = X25519PublicKey.from_public_bytes(public)
        return X25519PrivateKey.from_private_bytes(private).exchange(other)
    except ValueError as error:
        raise UpdateError(f"a public key is none: {error}") from error


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=purpose).derive(secret)


def _seal(kept: Secrets, receiver: Public, content: bytes, about: str) -> bytes:
    key = _derive(_agree(kept.sealing, receiver.sealing), b"seal " + about.encode())
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, about.encode())


def _open(kept: Secrets, sender: Public, sealed: bytes, about: str) -> bytes:
    key = _derive(_agree(kept.sealing, sender.sealing), b"seal " + about.encode())
    nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, content, about.encode())
    except (InvalidTag, ValueError) as error:
        raise UpdateError(f"sealed shares ({about}): they were tampered with") from error


def _split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    halves = [
        Shamir.split(threshold, count, secret[at : at + _HALF_BYTES], ssss=False)
        for at in range(0, _KEY_BYTES, _HALF_BYTES)
    ]
    # With its place, as some may be lost before all know who has one.
    return [
        index.to_bytes(_INDEX_BYTES, "little") + first + second
        for (index, first), (_, second) in zip(*halves, strict=True)
    ]


def _combine(shares: Sequence[bytes], name: str) -> bytes:
    if any(len(share) != _SHARE_BYTES for share in shares):
        raise UpdateError(f"shares of {name}'s secrets are missing or of another size")
    indices = [int.from_bytes(share[:_INDEX_BYTES], "little") for share in shares]
    if len(set(indices)) < len(shares):
        raise UpdateError(f"two shares of {name}'s secrets are of one place")
    return b"".join(
        Shamir.combine(
            [
                (index, share[at : at + _HALF_BYTES])
                for index, share in zip(indices, shares, strict=True)
            ],
            ssss=False,
        )
        for at in range(_INDEX_BYTES, _SHARE_BYTES, _HALF_BYTES)
    )


def _bytes_of(array: NDArray[Any], origin: str) -> bytes:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise UpdateError(f"{origin}: want an array of bytes")
    return array.tobytes()
