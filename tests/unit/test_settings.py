"""Settings come from flags, then the environment, then defaults; a wrong one is named."""

import socket
from pathlib import Path

import pytest
import typer
from pydantic import ValidationError

from chorus.operator import settings_from
from coordinator.settings import Settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CHORUS_{name.upper()}", raising=False)


def test_the_defaults_listen_on_this_machine_only():
    settings = Settings()
    assert (settings.host, settings.port, settings.images_port) == ("127.0.0.1", 7433, 7434)
    assert settings.database_url is None
    assert settings.work_address == "127.0.0.1:7433"
    assert settings.images_base == "https://127.0.0.1:7434"


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch):
    wanted = {
        "data": Path("/x"),
        "database_url": "postgresql://h/d",
        "host": "::1",
        "public_host": "example.org",
        "port": 1,
        "images_port": 2,
        "pool": 3,
        "metrics_host": "::2",
        "metrics_port": 4,
        "drain_s": 1.5,
        "log_level": "debug",
        "keep_past_leases_days": 0.5,
        "host_cap": 7,
    }
    assert set(wanted) == set(Settings.model_fields)
    for name, value in wanted.items():
        monkeypatch.setenv(f"CHORUS_{name.upper()}", str(value))
    assert Settings().model_dump() == wanted


def test_a_flag_wins_over_the_environment_and_both_over_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHORUS_PORT", "1000")
    monkeypatch.setenv("CHORUS_POOL", "5")
    settings = settings_from(port=2000, host=None)
    assert (settings.port, settings.pool, settings.host) == (2000, 5, "127.0.0.1")


@pytest.mark.parametrize(("name", "value"), [("port", "70000"), ("port", "ten"), ("pool", "0")])
def test_a_wrong_setting_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(f"CHORUS_{name.upper()}", value)
    with pytest.raises(typer.Exit):
        settings_from()
    told = capsys.readouterr().err
    assert f"{name}:" in told
    assert "[setting_invalid]" in told


def test_settings_never_change():
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("host", "public_host", "reached", "address"),
    [
        ("127.0.0.1", "", "127.0.0.1", "127.0.0.1:7433"),
        ("127.0.0.1", "example.org", "example.org", "example.org:7433"),
        ("::1", "", "::1", "[::1]:7433"),
        ("0.0.0.0", "", socket.gethostname(), f"{socket.gethostname()}:7433"),  # noqa: S104 (only read)
        ("::", "", socket.gethostname(), f"{socket.gethostname()}:7433"),
    ],
)
def test_invites_carry_an_address_that_can_be_reached(
    host: str, public_host: str, reached: str, address: str
):
    settings = Settings(host=host, public_host=public_host)
    assert (settings.reached_at, settings.work_address) == (reached, address)
    assert settings.images_base == f"https://{address.rpartition(':')[0]}:7434"


def test_all_that_is_kept_lies_in_the_data_folder():
    settings = Settings(data=Path("/data"))
    assert settings.keys_folder == Path("/data/keys")
    assert settings.objects_folder == Path("/data/objects")
