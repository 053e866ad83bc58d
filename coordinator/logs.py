"""The log of server processes: one JSON object a line on standard error, with nothing secret in it."""

import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog
from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"
LONGEST = 4000  # characters of one value
IDS_TOLD = 20  # in one line
LINES_OF_AN_EVENT, WINDOW_S = 50, 10.0

_NAMES = "pass(?:word|wd)?|token|secret|api[_-]?key|authorization|cookie|mac|sig(?:nature)?|private[_-]?key"
_SECRET_NAME = re.compile(rf"(?i)(?:^|[_\W])(?:{_NAMES}|invite|session|credentials?)$")
_SECRETS = (
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)"), REDACTED),
    (re.compile(r"\bchorus\d+\.[\w.~=+/-]+"), REDACTED),  # invites
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s\"'<>]*@"), rf"\1{REDACTED}@"),
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]+"), rf"\1 {REDACTED}"),
    (
        re.compile(
            rf"(?i)([\w-]{{0,40}}(?:{_NAMES}))([\"']?\s*[:=]\s*)(?:basic\s+)?(\"[^\"]*(?:\"|$)|'[^']*(?:'|$)|[^\s,;&)}}]+)"
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"\b(?:sk|pk|ghp|hf|xox[a-z])[-_][\w-]{8,}"), REDACTED),  # keys of common services
    (re.compile(r"\beyJ[\w-]+\.[\w-]*(?:\.[\w-]*)?"), REDACTED),  # JSON web tokens
)


def configure(level: str, *, for_people: bool = False) -> None:
    """Makes this process log so, also what libraries have to say; `level` is a name such as "info".

    With `for_people` its lines are not JSON but for a terminal. Call it before gRPC is imported.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _name_error,
            structlog.processors.format_exc_info,
            Sparing(),
            redact,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
            if for_people
            else structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # gRPC's core writes past all of this, a line for every stranger who does not speak TLS.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[_OfLibraries()], force=True)


def _name_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Says in `error` what an exception is: its trace may be cut before it comes to that."""
    error = sys.exc_info()[1] if event.get("exc_info") is True else event.get("exc_info")
    if isinstance(error, BaseException):
        event.setdefault("error", _in_a_line(error))
    return event


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Takes secrets out of every value, whatever it is: by the value's name, and by how it looks."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name):
        return REDACTED
    match value:
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case Mapping():
            return {redacted(str(key)): _clean(str(key), inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(name, inner) for inner in value]
        case _:
            return redacted(str(value))


def redacted(text: str) -> str:
    """The text without what looks like a secret, and not too long."""
    found = text[: 2 * LONGEST]  # a secret that is cut may no longer look like one, but is cut again below
    for pattern, instead in _SECRETS:
        found = pattern.sub(instead, found)
    return found if len(text) <= LONGEST else f"{found[:LONGEST]}… ({len(text)} characters)"


class Sparing:
    """Lets so many lines of one event pass in a while, so that nobody can fill the disk by mistakes.

    The next line that passes says how many were left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._seen: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Raises DropEvent for a line too many."""
        name, now = str(event.get("event", ""))[:100], self._clock()
        if now - self._since > WINDOW_S:
            self._since, self._left_out = now, Counter(self._seen)
            self._left_out.subtract(dict.fromkeys(self._seen, LINES_OF_AN_EVENT))
            self._seen.clear()
        self._seen[name] += 1
        if self._seen[name] > LINES_OF_AN_EVENT:
            raise structlog.DropEvent
        if (missed := self._left_out.pop(name, 0)) > 0:
            event["left_out"] = missed
        return event


class _OfLibraries(logging.Handler):
    """What libraries log becomes one line each; the first of an exception says enough.

    The event is the message before anything is put into it, so that it can be told from others and counted.
    """

    def emit(self, record: logging.LogRecord) -> None:
        words = {"message": _first_line(record.getMessage())} if record.args else {}
        if record.exc_info and record.exc_info[1] is not None:
            words["error"] = _in_a_line(record.exc_info[1])
        structlog.get_logger().log(record.levelno, _first_line(str(record.msg)), logger=record.name, **words)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
