"""What a model endpoint's error means: this job is wrong, the set-up is wrong, or wait. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

WAIT_STATUSES = frozenset({408, 409, 425, 429})
MOST_WAIT_S = 24 * 3600.0

_NO_VISION = re.compile(
    r"mmproj|not a multimodal|image input is not"
    r"|\b(no|not)\b.{0,60}\bsupport\w*\s+(image input|images\b|vision)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model\b.{0,80}\b(not found|does not exist|not exist|unknown|not loaded)|not a valid model|unknown model"
    r"|no (such )?model",
    re.IGNORECASE | re.DOTALL,
)
_BAD_KEY = re.compile(r"api.?key|unauthorized|authentication", re.IGNORECASE)
_IMAGE = re.compile(r"image|url|base64", re.IGNORECASE)
_CUT = re.compile(r"does not match the expected", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JobWrong:
    """This job cannot be done here, whatever the time. `is_form` where another form of asking may help;
    `is_seed` where another seed may."""

    code: str
    detail: str
    is_form: bool = False
    is_seed: bool = False


@dataclass(frozen=True, slots=True)
class SetupWrong:
    """No job can be done until the volunteer changes something; `advice` says what."""

    code: str
    advice: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The endpoint cannot answer now. `is_server_error` for a plain 500, which may be this job's fault."""

    code: str
    detail: str
    retry_after_s: float | None = None
    is_server_error: bool = False


Trouble = JobWrong | SetupWrong | Wait


def classify(status: int, body: str, headers: Mapping[str, str], now: datetime, model: str) -> Trouble:
    """What an HTTP error means, by its status first and then by its words. Errors in every known shape."""
    payload = _loads(body)
    text = error_text(payload) or " ".join(body[:300].split())
    detail = f"HTTP {status}: {text[:300]}"
    setup = _setup_trouble(status, text, detail, model)
    if setup is not None:
        return setup
    if status == 500 and _CUT.search(text):
        return JobWrong("answer_cut", detail, is_seed=True)
    if status == 500 and _IMAGE.search(text):
        return JobWrong("endpoint_refused", detail)
    if status in WAIT_STATUSES or status >= 500:
        name = "endpoint_limit" if status == 429 else "endpoint_busy"
        return Wait(name, detail, retry_after(payload, headers, now), is_server_error=status == 500)
    return JobWrong("endpoint_refused", detail, is_form=status in {400, 415, 422})


def _setup_trouble(status: int, text: str, detail: str, model: str) -> SetupWrong | None:
    if status in {401, 403} or (status == 400 and _BAD_KEY.search(text)):
        return SetupWrong("endpoint_key", f"The endpoint refuses the key ({detail}). Check --api-key-env.")
    if status == 402:
        return SetupWrong("endpoint_credit", f"The endpoint's account has no credit left ({detail}).")
    if status in {400, 404, 500} and _NO_VISION.search(text):
        advice = f"Model {model} takes no images here ({detail}). Choose a vision model with --model."
        return SetupWrong("model_blind", advice)
    if status == 404 or (status == 400 and _NO_MODEL.search(text)):
        advice = f"The endpoint knows no model {model}, or its address lacks /v1 ({detail})."
        return SetupWrong("model_unknown", f"{advice} Check --model and --endpoint.")
    return None


def error_text(payload: object) -> str:
    """The words of an error that came as object, string or array; empty where there is none."""
    match payload:
        case [first, *_]:
            return error_text(first)
        case {"error": error}:
            return error_text({"message": error}) if isinstance(error, str) else error_text(error)
        case {"message": str(message)}:
            return message
        case {"detail": detail}:  # FastAPI's own refusals
            return detail if isinstance(detail, str) else json.dumps(detail)[:300]
        case _:
            return ""


def hidden_error(payload: object) -> int | None:
    """The status of an error that came inside HTTP 200; None where the payload is none."""
    first = payload[0] if isinstance(payload, list) and payload else payload
    if not isinstance(first, dict) or not first.get("error"):
        return None
    error = first["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def retry_after(payload: object, headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait as the endpoint asks: header in seconds or as a date, or Gemini's retryDelay."""
    value = headers.get("retry-after", "").strip()
    seconds = _seconds(value)
    if seconds is None and value:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            date = now
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    if seconds is None:
        seconds = next((s for delay in _retry_delays(payload) if (s := _seconds(delay.rstrip("s")))), None)
    return None if seconds is None else min(max(seconds, 0.0), MOST_WAIT_S)


def _retry_delays(payload: object) -> Iterator[str]:
    match payload:
        case [first, *_]:
            yield from _retry_delays(first)
        case {"error": {"details": [*details]}}:
            for entry in details:
                if isinstance(entry, dict) and isinstance(entry.get("retryDelay"), str):
                    yield entry["retryDelay"]


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else None


def _loads(body: str) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
