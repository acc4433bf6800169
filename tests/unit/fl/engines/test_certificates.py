"""Certificates that TLS takes, and takes from nobody else."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from hocket.fl.core.errors import ConfigError
from hocket.fl.engines.flower.certificates import Certificates, make_certificates


def shake_hands(server: Certificates, authority: Path, host: str) -> None:
    """Do TLS's handshake in memory."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.certificate, server.key)
    asking = ssl.create_default_context(cafile=str(authority))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        asking.wrap_bio(to_client, to_server, server_hostname=host),
        serving.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() == ends[1].version() == "TLSv1.3"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "link.example"])
def test_a_server_is_known_by_its_authority(tmp_path: Path, host: str) -> None:
    made = make_certificates(tmp_path, ("127.0.0.1", "localhost", "link.example"))
    shake_hands(made, made.authority, host)


def test_another_authority_or_host_is_refused(tmp_path: Path) -> None:
    made, other = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        shake_hands(made, other.authority, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(made, made.authority, "elsewhere.example")


def test_a_key_is_its_owners_alone(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "authority.pem",
        "server.key",
        "server.pem",
    ]
    with pytest.raises(ConfigError, match="want one or more"):
        make_certificates(tmp_path, ())
