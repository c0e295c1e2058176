"""Kubeflow Pipelines behind TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kfp_server import fails, serve, works


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_tls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], certificate: tuple[str, str]
) -> None:
    with serve(tmp_path, certificate=certificate) as server:
        line = fails(capsys, "--host", server.host, code=1)
        assert line == (
            f"the TLS certificate of {server.host} is not valid (self-signed certificate); pass "
            "its CA with --ca-cert, or use --insecure if you trust the network"
        )
        works(capsys, "--host", server.host, "--ca-cert", certificate[0])
        works(capsys, "--host", server.host, "--insecure")
        host = server.host.replace("127.0.0.1", "localhost")
        line = fails(capsys, "--host", host, "--ca-cert", certificate[0], code=1)
        assert line.startswith(f"the TLS certificate of {host} is not valid (Hostname mismatch")
        line = fails(capsys, "--host", server.host, "--ca-cert", certificate[1], code=2)
        assert line == f"--ca-cert {certificate[1]} contains no PEM certificate"


def test_http_where_tls_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(tmp_path) as server:
        host = server.host.replace("http", "https")
        line = fails(capsys, "--host", host, code=1)
    assert line.startswith(f"the TLS certificate of {host} is not valid (the handshake failed)")
