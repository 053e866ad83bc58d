"""Sources: the images that an operator points at, each with its name, licence and attribution.

Lists and folders come from strangers as often as not: a bad line is a `SourceFault`, and a relative path
stays inside its folder. `coordinator.fetching` reads the bytes behind a source.
"""

import json
import math
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from coordinator.fetching import FetchRefused, parse_url

IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
LIST_SUFFIXES = (".jsonl", ".ndjson")
SIDECAR = "metadata.jsonl"
MAX_LINE = 1_000_000

SourceFaultCode: TypeAlias = Literal[
    "no_such_path",  # what the operator named is neither folder, image nor list
    "unreadable",  # the system says no
    "line_too_long",
    "not_json",
    "bad_field",
    "no_source",  # neither path nor URL
    "no_such_file",
    "outside_folder",
    "bad_url",
]


@dataclass(frozen=True, slots=True)
class Source:
    """One image to import.

    `name` is for people and the export's `filename`: the path inside the folder or the URL's last part.
    `value` is unique: a file:// URI of the resolved file, or the URL. `meta` is JSON: whatever else its
    line said (title, tags, …). All text is NFC, without control characters.
    """

    name: str
    value: str
    license: str | None = None
    attribution: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceFault:
    """Something that is no source: `name` is a path, or a list and its line ("photos.jsonl:17")."""

    name: str
    code: SourceFaultCode
    detail: str


@dataclass(frozen=True, slots=True)
class SkippedFiles:
    """How many files of a folder were passed over because their names are not those of images."""

    count: int


def read_sources(path: Path) -> Iterator[Source | SourceFault | SkippedFiles]:
    """The images of a folder, an image file or a JSONL list, in a stable order; never raises.

    A list is streamed: a JSON object a line, with `path`, `file_name` or `filename` (a local file) or `url`,
    and perhaps `license`, `attribution` and `metadata`. The file is taken where it exists, else the URL.
    A relative path may not leave the list's folder; an absolute one says what it means and may.
    A folder is walked with its subfolders, hidden names and linked folders left out; a `metadata.jsonl` in it
    (as in Hugging Face's imagefolder) describes files around it. Only names are held in memory.
    Of a folder the last item is SkippedFiles, if any were.
    """
    try:
        if path.is_dir():
            yield from _read_folder(path.resolve())
        elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
            folder = path.parent.resolve()
            yield from _read_list(folder / path.name, folder, inside_only=False)
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield Source(_safe_name(path.name), path.resolve().as_uri())
        else:
            detail = "name a folder, an image file, or a list that ends in .jsonl"
            yield SourceFault(clean_text(str(path)), "no_such_path", detail)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        yield SourceFault(clean_text(str(path)), "unreadable", str(error))


def clean_text(text: str) -> str:
    """NFC, without control characters but line breaks and tabs, without what UTF-8 cannot hold."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", whole.translate(_CONTROLS))


_CONTROLS = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


# --- folders ---


def _read_folder(root: Path) -> Iterator[Source | SourceFault | SkippedFiles]:
    described: set[str] = set()  # values that a sidecar has already yielded
    skipped = 0
    errors: list[OSError] = []
    for folder, subfolders, files in os.walk(root, onerror=errors.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if SIDECAR in files and Path(folder, SIDECAR).is_file():
            for item in _read_list(Path(folder, SIDECAR), root, inside_only=True):
                if isinstance(item, SourceFault):
                    yield item
                elif item.value not in described:
                    described.add(item.value)
                    yield item
        for name in sorted(files):
            if name.startswith(".") or name == SIDECAR:
                continue
            if not name.lower().endswith(IMAGE_SUFFIXES):
                skipped += 1
                continue
            item = _folder_file(Path(folder, name), root)
            if isinstance(item, SourceFault) or item.value not in described:
                yield item
    for error in errors:
        yield SourceFault(clean_text(str(error.filename)), "unreadable", error.strerror or str(error))
    if skipped:
        yield SkippedFiles(skipped)


def _folder_file(path: Path, root: Path) -> Source | SourceFault:
    name = _safe_name(path.relative_to(root).as_posix())
    try:
        return Source(name, _locate(path, root).as_uri())
    except _BadSource as bad:
        return SourceFault(name, bad.code, bad.detail)


class _BadSource(Exception):  # noqa: N818  # becomes a SourceFault; it never leaves this module
    def __init__(self, code: SourceFaultCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def _locate(path: Path, root: Path | None) -> Path:
    """The regular file behind an absolute path, links followed; inside `root` unless that is None."""
    try:
        resolved = path.resolve()
        if root is not None and not resolved.is_relative_to(root):
            detail = "it leads out of its folder; name the file by its absolute path in a list of your own"
            raise _BadSource("outside_folder", detail)
        if resolved.is_file():
            return resolved
    except (OSError, ValueError, RuntimeError) as error:
        raise _BadSource("no_such_file", f"no file can have this path: {error}") from error
    raise _BadSource("no_such_file", f"there is no regular file at {clean_text(str(resolved))}")


# --- lists ---


def _read_list(path: Path, root: Path, *, inside_only: bool) -> Iterator[Source | SourceFault]:
    """The sources of a list; names are relative to `root`, paths in it to the list's folder."""
    list_name = clean_text(path.relative_to(root).as_posix())
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                try:
                    if line is None:
                        raise _BadSource("line_too_long", f"a line has at most {MAX_LINE:,} bytes")
                    if line.strip():
                        yield _read_line(line, path.parent, root, inside_only=inside_only)
                except _BadSource as bad:
                    yield SourceFault(f"{list_name}:{number}", bad.code, bad.detail)
    except OSError as error:
        yield SourceFault(list_name, "unreadable", error.strerror or str(error))


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file without its byte order mark; None for one too long to hold."""
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield None


def _read_line(line: bytes, folder: Path, root: Path, *, inside_only: bool) -> Source:
    fields = _json_object(line)
    local = _take_text(fields, "path", "file_name", "filename")
    url = _take_text(fields, "url")
    license_name = _cleaned(_take_text(fields, "license", "licence"))
    attribution = _cleaned(_take_text(fields, "attribution"))
    extra = fields.pop("metadata", None) or {}
    if not isinstance(extra, dict):
        raise _BadSource("bad_field", "metadata must be an object of names and values")
    meta = _clean_json(fields | extra)
    if local is not None:
        # A relative path is anyone's; an absolute one was written by somebody who knows this machine.
        bound = None if local.startswith("/") and not inside_only else root
        try:
            value = _locate(folder / local, bound).as_uri()
        except _BadSource as bad:
            if url is None or bad.code != "no_such_file":
                raise
        else:
            origin = {} if url is None else {"url": clean_text(url)}
            return Source(_local_name(folder / local, root), value, license_name, attribution, origin | meta)
    if url is None:
        raise _BadSource("no_source", "the line names neither a file (path or file_name) nor a url")
    try:
        parsed = parse_url(url)
    except FetchRefused as refused:
        raise _BadSource("bad_url", refused.detail) from refused
    last = parsed.path.rstrip("/").rpartition("/")[2]
    return Source(_safe_name(local or last or parsed.host), str(parsed), license_name, attribution, meta)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode(), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _BadSource("not_json", f"the line is not JSON in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise _BadSource("not_json", "the line is not a JSON object")
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a number that JSON can hold")
    return number


def _take_text(fields: dict[str, Any], *names: str) -> str | None:
    """The first of these fields that is there and not empty; the others stay."""
    for name in names:
        text = fields.get(name)
        if text is None or text == "":
            fields.pop(name, None)
            continue
        if not isinstance(text, str):
            raise _BadSource("bad_field", f"{name} must be a text")
        del fields[name]
        return text
    return None


def _cleaned(text: str | None) -> str | None:
    return None if text is None else clean_text(text).strip() or None


def _clean_json(value: Any, levels: int = 32) -> Any:  # noqa: ANN401  # any JSON in, the same shape out
    if levels == 0:
        raise _BadSource("bad_field", "metadata is nested deeper than 32 levels")
    match value:
        case str():
            return clean_text(value)
        case list():
            return [_clean_json(item, levels - 1) for item in value]
        case dict():
            return {clean_text(name): _clean_json(item, levels - 1) for name, item in value.items()}
        case _:
            return value


def _local_name(path: Path, root: Path) -> str:
    relative = os.path.relpath(path, root)
    return _safe_name(path.name if relative.startswith("..") else relative)


def _safe_name(path: str) -> str:
    """A relative path of at most 1,024 characters that stays below wherever it is put."""
    parts = " ".join(clean_text(path).split("\n")).replace("\\", "/").split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))
    return kept[-1024:].lstrip("/") or "unnamed"
