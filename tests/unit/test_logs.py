"""Logs: one JSON object a line, no secret in any of them, and nobody can fill the disk."""

import io
import json
import logging
import string
import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from coordinator import logs
from coordinator.logs import LINES_OF_AN_EVENT, LONGEST, REDACTED, WINDOW_S, Sparing, redact, redacted

SECRET = "Hunter2-SECRET"
INVITE = f"chorus1.{SECRET}eyJhIjpb_-Q"


@pytest.mark.parametrize(
    "text",
    [
        f"connection to postgresql://chorus:{SECRET}@db:5432/chorus failed",
        f"postgresql+psycopg://chorus:{SECRET}@@/x?sslmode=require",
        f"postgres://u:p/{SECRET}@host/db",
        f"host=db password={SECRET} dbname=chorus",
        f"host=db password='{SECRET} with spaces' dbname=chorus",
        f'{{"api_key": "{SECRET}", "model": "m"}}',
        f"{{'token': '{SECRET}'}}",
        f"API-KEY:{SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization=Basic {SECRET}",
        f"GET https://h/images/00?expires=1&mac={SECRET}&x=1",
        f"X-Amz-Signature={SECRET}",
        f"join with {INVITE} now",
        f"sk-{SECRET}",
        f"hf_{SECRET}",
        f"eyJhbGciOi.{SECRET}.sig",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}",
        f"https://user:{SECRET}@proxy.example\nnext line",
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_the_rest_stays(text: str):
    assert SECRET not in redacted(text)
    assert REDACTED in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "PostgreSQL does not answer: connection refused on 127.0.0.1:5432",
        "unit 17 of campaign 3 exhausted: too_many_failures",
        "https://example.org/a/b?c=d",
        "the token bucket, the secret garden and a basic description",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str):
    assert redacted(text) == text


def _logged(**event: object) -> str:
    return json.dumps(redact(None, "info", dict(event)))


@pytest.mark.parametrize(
    "event",
    [
        {"token": SECRET},
        {"session": SECRET},
        {"invite": SECRET},
        {"session_token": SECRET},
        {"password": [SECRET, {"x": SECRET}]},
        {"settings": {"database_password": SECRET, "host": "h"}},
        {"headers": [{"Authorization": SECRET}]},
        {"body": SECRET.encode()},
        {"nested": {"deep": [{"deeper": (f"postgresql://u:{SECRET}@h/d",)}]}},
        {"error": ValueError(f"password={SECRET}")},
        {"event": f"called with {INVITE}"},
        {"data": {f"chorus1.{SECRET}": 1}},
    ],
)
def test_secrets_are_found_by_name_and_at_any_depth(event: dict[str, object]):
    assert SECRET not in _logged(**event)


def test_ids_and_figures_stay():
    event = {"event": "exhausted", "unit_ids": [1, 2], "host_id": 3, "share": 0.5, "late": True, "why": None}
    assert json.loads(_logged(**event)) == event


WORDS = st.text(st.characters(codec="utf-8"), max_size=40)
PASSWORDS = st.text(string.ascii_letters + string.digits + "!$%^*_~/:?#[]", min_size=8, max_size=30)


@given(before=WORDS, password=PASSWORDS, after=WORDS)
def test_no_password_in_a_url_gets_through_whatever_stands_around_it(before: str, password: str, after: str):
    text = redacted(f"{before} postgresql://chorus:Zq{password}@db/chorus {after}")
    assert f"Zq{password}" not in text


@given(value=st.recursive(WORDS | st.binary() | st.integers() | st.none(), st.lists, max_leaves=8))
def test_anything_can_be_logged(value: object):
    json.loads(_logged(value=value))


def test_a_long_value_is_cut():
    text = redacted("x" * 10 * LONGEST)
    assert len(text) < LONGEST + 50
    assert f"({10 * LONGEST} characters)" in text


@pytest.mark.parametrize(
    "hostile", ["x", "://", "a-", "password", "-----BEGIN PRIVATE KEY-----", "eyJ.", "="]
)
def test_a_hostile_value_costs_no_time(hostile: str):
    began = time.process_time()
    redacted(hostile * 1_000_000)
    assert time.process_time() - began < 1


def _passes(sparing: Sparing, name: str) -> dict[str, object] | None:
    try:
        return dict(sparing(None, "info", {"event": name}))
    except structlog.DropEvent:
        return None


def test_a_flood_of_one_event_is_cut_and_counted_and_others_pass():
    clock = [0.0]
    sparing = Sparing(lambda: clock[0])
    passed = [line for _ in range(10 * LINES_OF_AN_EVENT) if (line := _passes(sparing, "flood"))]
    assert len(passed) == LINES_OF_AN_EVENT
    assert _passes(sparing, "other") == {"event": "other"}
    clock[0] += WINDOW_S + 1
    assert _passes(sparing, "flood") == {"event": "flood", "left_out": 9 * LINES_OF_AN_EVENT}
    assert _passes(sparing, "flood") == {"event": "flood"}
    assert _passes(sparing, "other") == {"event": "other"}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a process that is configured so writes on standard error."""
    root, output = logging.getLogger(), io.StringIO()
    before = (root.handlers[:], root.level)
    monkeypatch.setattr("sys.stderr", output)
    logs.configure("info")
    yield output
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_a_librarys_exception_becomes_one_line_without_its_trace(written: io.StringIO):
    try:
        raise ValueError(f"token={SECRET}\nsecond line")
    except ValueError:
        logging.getLogger("grpc").exception("Exception deserializing message!")
    [line] = map(json.loads, written.getvalue().splitlines())
    assert (line["event"], line["logger"], line["level"]) == (
        "Exception deserializing message!",
        "grpc",
        "error",
    )
    assert line["error"] == f"ValueError: token={REDACTED}"
    assert "Traceback" not in written.getvalue()


def test_a_librarys_flood_is_cut_whatever_is_put_into_its_message(written: io.StringIO):
    for number in range(3 * LINES_OF_AN_EVENT):
        logging.getLogger("psycopg").warning(
            "error ignored terminating %s", f"<AsyncPipeline at {number:#x}>"
        )
    lines = list(map(json.loads, written.getvalue().splitlines()))
    assert len(lines) == LINES_OF_AN_EVENT
    assert lines[1]["event"] == "error ignored terminating %s"
    assert lines[1]["message"] == "error ignored terminating <AsyncPipeline at 0x1>"


def test_what_an_exception_says_is_told_however_long_its_trace_is(written: io.StringIO):
    def deep(calls: int) -> None:
        if calls == 0:
            raise ValueError("the disk is full\nand more")
        try:
            deep(calls - 1)
        except ValueError as error:
            raise ValueError("the disk is full\nand more") from error

    try:
        deep(50)
    except ValueError:
        structlog.get_logger().exception("call_failed")
    [line] = map(json.loads, written.getvalue().splitlines())
    assert "characters)" in line["exception"]
    assert line["error"] == "ValueError: the disk is full"


def test_our_own_exception_is_logged_with_its_trace_and_what_is_bound(written: io.StringIO):
    with structlog.contextvars.bound_contextvars(host_id=7):
        try:
            raise ValueError(f"token={SECRET}")
        except ValueError:
            structlog.get_logger().exception("call_failed", call="Work")
    [line] = map(json.loads, written.getvalue().splitlines())
    assert (line["host_id"], line["call"]) == (7, "Work")
    assert "Traceback" in line["exception"]
    assert SECRET not in written.getvalue()


def test_a_terminal_gets_lines_for_people_without_secrets_too(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stderr", written)
    logs.configure("info", for_people=True)
    structlog.get_logger().info("database_does_not_start", error=f"postgresql://u:{SECRET}@h/d")
    assert "database_does_not_start" in written.getvalue()
    assert not written.getvalue().startswith("{")
    assert SECRET not in written.getvalue()


def test_less_than_the_level_is_not_logged(written: io.StringIO):
    structlog.get_logger().debug("quiet")
    logging.getLogger("apscheduler").info("quiet")
    assert written.getvalue() == ""
