"""The coordinator's keys: made once, kept, closed to others, and a certificate that is renewed in time."""

import datetime
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.keys import RENEW_DAYS, SERVER_DAYS, Keys, open_keys
from protos.invite import PRIVATE_SERVER_NAME

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
PRIVATE = ("ca.key", "server.key", "signing.key", "secret")


def _open(folder: Path, *names: str, now: datetime.datetime = NOW) -> Keys:
    return open_keys(folder / "keys", names, now)


def _certificate(keys: Keys) -> x509.Certificate:
    return x509.load_pem_x509_certificates(keys.certificate.read_bytes())[0]


def _names(keys: Keys) -> set[str]:
    found = _certificate(keys).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_keys_are_made_once_and_kept(tmp_path: Path):
    first = _open(tmp_path, "example.org")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    again = _open(tmp_path, "example.org", now=NOW + DAY)
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    assert (again.ca_der, again.secret) == (first.ca_der, first.secret)
    assert again.signing.private_bytes_raw() == first.signing.private_bytes_raw()


def test_two_coordinators_share_nothing(tmp_path: Path):
    one, other = _open(tmp_path / "one"), _open(tmp_path / "other")
    assert one.secret != other.secret
    assert one.ca_der != other.ca_der
    assert one.signing.private_bytes_raw() != other.signing.private_bytes_raw()


def test_private_keys_are_closed_to_others_whatever_the_umask(tmp_path: Path):
    umask = os.umask(0)
    try:
        _open(tmp_path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for name in PRIVATE:
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize("name", PRIVATE)
def test_a_leftover_of_a_crash_that_others_can_read_never_becomes_a_key(tmp_path: Path, name: str):
    folder = tmp_path / "keys"
    folder.mkdir()
    leftover = folder / f"{name}.new"
    leftover.write_bytes(b"half a key")
    leftover.chmod(0o666)
    with leftover.open("rb") as spy:
        _open(tmp_path)
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        spy.seek(0)
        assert spy.read() == b"half a key"


def test_the_certificate_names_all_under_which_it_is_reached(tmp_path: Path):
    keys = _open(tmp_path, "example.org", "192.0.2.7", "2001:db8::7")
    wanted = {"example.org", "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1", "::1", PRIVATE_SERVER_NAME}
    assert _names(keys) == wanted


def test_a_new_name_renews_the_certificate_and_keeps_the_authority(tmp_path: Path):
    before = _open(tmp_path, "old.example.org")
    old = _certificate(before)
    after = _open(tmp_path, "new.example.org")
    assert "new.example.org" in _names(after)
    assert _certificate(after).serial_number != old.serial_number
    assert after.ca_der == before.ca_der


@pytest.mark.parametrize(("days_left", "renewed"), [(RENEW_DAYS + 1, False), (RENEW_DAYS, True), (-5, True)])
def test_a_certificate_is_renewed_thirty_days_before_its_end(tmp_path: Path, days_left: int, renewed: bool):
    before = _certificate(_open(tmp_path))
    after = _certificate(_open(tmp_path, now=NOW + (SERVER_DAYS - days_left) * DAY))
    assert (after.serial_number != before.serial_number) is renewed


def test_a_certificate_without_its_key_is_made_again(tmp_path: Path):
    before = _open(tmp_path)
    before.private_key.unlink()
    after = _open(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(after.certificate, after.private_key)


def test_volunteers_trust_the_certificate_by_the_authority_alone(tmp_path: Path):
    keys = _open(tmp_path, now=datetime.datetime.now(datetime.UTC))
    ca = x509.load_der_x509_certificate(keys.ca_der)
    _certificate(keys).verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_foreign_file_in_a_keys_place_is_told(tmp_path: Path):
    _open(tmp_path)
    (tmp_path / "keys" / "signing.key").write_bytes((tmp_path / "keys" / "ca.key").read_bytes())
    with pytest.raises(TypeError, match=r"signing\.key"):
        _open(tmp_path)


def test_macs_of_one_purpose_are_worth_nothing_for_another(tmp_path: Path):
    keys = _open(tmp_path)
    assert keys.mac("session", b"x") == keys.mac("session", b"x")
    assert keys.mac("session", b"x") != keys.mac("challenge", b"x")
    assert len(keys.mac("image", b"")) == 32
