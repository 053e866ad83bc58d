"""The coordinator's own keys: a private CA, its server certificate, the signing key and a shared secret."""

import datetime
import hashlib
import hmac
import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.clock import now
from coordinator.settings import Settings
from protos.invite import PRIVATE_SERVER_NAME

CA_DAYS = 3650
SERVER_DAYS = 365
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Keys:
    """Paths for the TLS servers, the CA (DER) for invites, and the keys that sign."""

    certificate: Path
    private_key: Path
    ca_der: bytes
    signing: Ed25519PrivateKey
    secret: bytes

    def mac(self, purpose: str, message: bytes) -> bytes:
        """A 32-byte MAC under the shared secret; different purposes never share MACs."""
        return hmac.digest(self.secret, purpose.encode() + b"\0" + message, hashlib.sha256)


def open_keys(folder: Path, names: Sequence[str], now: datetime.datetime) -> Keys:
    """Reads the keys in `folder`, and makes those that are missing or about to expire.

    `names` are the host names and addresses under which volunteers reach the servers.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, ca = _authority(folder, now)
    _server_certificate(folder, ca_key, ca, sorted({*names, "localhost", "127.0.0.1", "::1"}), now)
    signing = serialization.load_pem_private_key(_kept(folder / "signing.key", _new_signing_key), None)
    if not isinstance(signing, Ed25519PrivateKey):
        raise TypeError(f"{folder / 'signing.key'} does not hold an Ed25519 key")
    return Keys(
        certificate=folder / "server.pem",
        private_key=folder / "server.key",
        ca_der=ca.public_bytes(serialization.Encoding.DER),
        signing=signing,
        secret=_kept(folder / "secret", lambda: os.urandom(32)),
    )


def keys_of(settings: Settings) -> Keys:
    """The keys in the data folder, with a certificate for the name under which volunteers reach it."""
    return open_keys(settings.keys_folder, [settings.reached_at], now())


def _authority(folder: Path, now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = serialization.load_pem_private_key(_kept(folder / "ca.key", _new_tls_key), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / 'ca.key'} does not hold an elliptic-curve key")

    def make() -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Chorus private CA")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(name, name, key.public_key(), now, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return _pem(builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()))

    return key, x509.load_pem_x509_certificate(_kept(folder / "ca.pem", make))


def _server_certificate(
    folder: Path,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    names: Sequence[str],
    now: datetime.datetime,
) -> None:
    wanted = [_general_name(name) for name in (PRIVATE_SERVER_NAME, *names)]
    path = folder / "server.pem"
    if path.exists() and (folder / "server.key").exists() and _still_good(path.read_bytes(), wanted, now):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PRIVATE_SERVER_NAME)])
    builder = _builder(subject, ca.subject, key.public_key(), now, SERVER_DAYS)
    builder = builder.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    server_auth = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = builder.add_extension(server_auth, critical=False).sign(ca_key, hashes.SHA256())
    _write(folder / "server.key", _private_pem(key))
    _write(path, _pem(certificate) + _pem(ca))


def _still_good(pem: bytes, wanted: list[x509.GeneralName], now: datetime.datetime) -> bool:
    certificate = x509.load_pem_x509_certificates(pem)[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends = certificate.not_valid_after_utc - datetime.timedelta(days=RENEW_DAYS)
    return set(names) >= set(wanted) and now < ends


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - day).not_valid_after(now + days * day)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _new_tls_key() -> bytes:
    return _private_pem(ec.generate_private_key(ec.SECP256R1()))


def _new_signing_key() -> bytes:
    return _private_pem(Ed25519PrivateKey.generate())


def _private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*kinds)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        _write(path, make())
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)  # what a crash or somebody else left may be open to others
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
