"""What an operator points at becomes sources and faults, whatever strangers have put there."""

import json
import os
import tracemalloc
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.fetching import read_file
from coordinator.sources import MAX_LINE, SkippedFiles, Source, SourceFault, clean_text, read_sources

JPEG = b"\xff\xd8\xff picture"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    return root


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)


def listed(root: Path, *lines: dict[str, Any] | str | bytes, name: str = "list.jsonl") -> Path:
    encoded = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    (root / name).write_bytes(b"\n".join(encoded) + b"\n")
    return root / name


def names(path: Path) -> list[str]:
    return [item.name for item in read_sources(path) if isinstance(item, Source)]


def faults(path: Path) -> list[tuple[str, str]]:
    return [(item.name, item.code) for item in read_sources(path) if isinstance(item, SourceFault)]


def only(path: Path) -> Source:
    (item,) = read_sources(path)
    assert isinstance(item, Source)
    return item


# --- folders ---


def test_a_folder_is_walked_in_order_and_other_files_are_counted(folder: Path):
    put(folder, "b.JPG", "a.png", "sub/c.webp", "sub/deep/d.avif", "notes.txt", "sub/page.svg")
    put(folder, ".hidden.jpg", ".git/e.jpg", "sub/.thumbs/f.jpg")
    assert names(folder) == ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.avif"]
    assert list(read_sources(folder))[-1] == SkippedFiles(2)
    assert names(folder) == names(folder)


def test_a_source_leads_to_its_bytes(folder: Path):
    strange = "ü % #?\n.jpg"
    put(folder, strange)
    source = only(folder)
    assert source.name == unicodedata.normalize("NFC", "ü % #? .jpg")
    assert read_file(source.value, 100) == JPEG


def test_a_name_that_is_no_text_is_still_read(folder: Path):
    raw = os.fsencode(folder) + b"/\xff\xfe.jpg"
    Path(os.fsdecode(raw)).write_bytes(JPEG)
    source = only(folder)
    source.name.encode()
    assert read_file(source.value, 100) == JPEG


def test_one_image_is_a_source(folder: Path):
    put(folder, "a.jpg")
    assert only(folder / "a.jpg").name == "a.jpg"


@pytest.mark.parametrize("name", ["missing", "missing.jpg", "missing.jsonl", "notes.txt", "nul\0.jpg"])
def test_a_path_that_leads_nowhere_is_a_fault(folder: Path, name: str):
    (folder / "notes.txt").write_text("hello")
    ((_, code),) = faults(folder / name)
    assert code == "no_such_path"


def test_links_inside_the_folder_are_followed_and_links_out_are_faults(folder: Path, tmp_path: Path):
    put(folder, "a.jpg")
    put(tmp_path, "private/secret.jpg")
    (folder / "b.jpg").symlink_to("a.jpg")
    (folder / "c.jpg").symlink_to(tmp_path / "private" / "secret.jpg")
    (folder / "d.jpg").symlink_to("d.jpg")
    (folder / "everything").symlink_to(tmp_path / "private")
    assert names(folder) == ["a.jpg", "b.jpg"]
    assert faults(folder) == [("c.jpg", "outside_folder"), ("d.jpg", "no_such_file")]


def test_fifos_and_folders_named_like_images_are_faults(folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "album.jpg").mkdir()
    put(folder, "album.jpg/a.jpg")
    assert names(folder) == ["album.jpg/a.jpg"]
    assert faults(folder) == [("pipe.jpg", "no_such_file")]


def test_a_fifo_as_sidecar_blocks_nobody(folder: Path):
    put(folder, "a.jpg")
    os.mkfifo(folder / "metadata.jsonl")
    assert names(folder) == ["a.jpg"]


def test_an_unreadable_subfolder_is_told_and_the_rest_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    put(folder, "a.jpg", "closed/b.jpg", "open/c.jpg")
    real = os.scandir

    def guarded(path: str) -> Any:  # os.scandir's own iterator
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    # Tests may run as root, whom no mode keeps out.
    monkeypatch.setattr(os, "scandir", guarded)
    assert names(folder) == ["a.jpg", "open/c.jpg"]
    assert faults(folder) == [(str(folder / "closed"), "unreadable")]


# --- sidecars ---


def test_a_sidecar_describes_the_files_around_it(folder: Path):
    put(folder, "a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg")
    listed(folder, {"file_name": "b.jpg", "license": "CC0", "title": "Bee"}, name="metadata.jsonl")
    listed(folder / "sub", {"file_name": "d.jpg", "attribution": "Dora"}, name="metadata.jsonl")
    sources = {item.name: item for item in read_sources(folder) if isinstance(item, Source)}
    assert sorted(sources) == ["a.jpg", "b.jpg", "sub/c.jpg", "sub/d.jpg"]
    assert (sources["b.jpg"].license, sources["b.jpg"].meta) == ("CC0", {"title": "Bee"})
    assert sources["sub/d.jpg"].attribution == "Dora"
    assert sources["a.jpg"].license is None
    assert not [item for item in read_sources(folder) if isinstance(item, SkippedFiles)]


def test_a_sidecar_names_each_file_once_and_only_files_of_its_folder(folder: Path, tmp_path: Path):
    put(folder, "a.jpg")
    put(tmp_path, "secret.jpg")
    listed(
        folder,
        {"file_name": "a.jpg", "license": "CC0"},
        {"file_name": "a.jpg", "license": "other"},
        {"file_name": str(tmp_path / "secret.jpg")},
        {"file_name": "../secret.jpg"},
        {"file_name": "gone.jpg"},
        name="metadata.jsonl",
    )
    assert [item.license for item in read_sources(folder) if isinstance(item, Source)] == ["CC0"]
    assert faults(folder) == [
        ("metadata.jsonl:3", "outside_folder"),
        ("metadata.jsonl:4", "outside_folder"),
        ("metadata.jsonl:5", "no_such_file"),
    ]


# --- lists ---


def test_a_line_gives_name_licence_attribution_and_the_rest(folder: Path):
    put(folder, "in/a.jpg")
    path = listed(
        folder,
        {
            "path": "in/a.jpg",
            "license": "CC-BY-4.0",
            "attribution": "Ann",
            "metadata": {"title": "A"},
            "tags": ["x"],
        },
    )
    source = only(path)
    assert source.name == "in/a.jpg"
    assert (source.license, source.attribution) == ("CC-BY-4.0", "Ann")
    assert source.meta == {"title": "A", "tags": ["x"]}
    assert read_file(source.value, 100) == JPEG


def test_a_url_is_a_source_named_after_its_last_part(folder: Path):
    path = listed(
        folder,
        {"url": "https://example.org/x/Caf%C3%A9.jpg?size=1#top"},
        {"url": "HTTPS://Example.org"},
        {"url": "https://example.org/", "file_name": "etc/shown.jpg"},
        {"url": "https://example.org/..%2f..%2fetc%2fpasswd"},
        {"url": "https://example.org/%2e%2e"},
        {"url": "https://example.org/a.jpg", "filename": "..\\shown.jpg"},
    )
    items = [item for item in read_sources(path) if isinstance(item, Source)]
    assert [item.name for item in items] == [
        "Café.jpg",
        "example.org",
        "etc/shown.jpg",
        "passwd",
        "unnamed",
        "shown.jpg",
    ]
    assert items[0].value == "https://example.org/x/Caf%C3%A9.jpg?size=1"
    assert items[0].meta == {}


def test_the_local_file_is_taken_before_the_url(folder: Path):
    put(folder, "a.jpg")
    path = listed(folder, {"file_name": "a.jpg", "url": "https://example.org/a.jpg"})
    source = only(path)
    assert source.value == (folder / "a.jpg").resolve().as_uri()
    assert source.meta == {"url": "https://example.org/a.jpg"}


def test_relative_paths_stay_inside_and_absolute_ones_may_leave(folder: Path, tmp_path: Path):
    put(tmp_path, "elsewhere/a.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    path = listed(
        folder,
        {"path": "../elsewhere/a.jpg"},
        {"path": "link.jpg"},
        {"path": str(tmp_path / "elsewhere" / "a.jpg")},
    )
    assert faults(path) == [("list.jsonl:1", "outside_folder"), ("list.jsonl:2", "outside_folder")]
    assert names(path) == ["a.jpg"]


def test_a_list_behind_a_link_names_files_beside_the_link(folder: Path, tmp_path: Path):
    put(folder, "a.jpg")
    listed(tmp_path, {"path": "a.jpg"}, name="real.jsonl")
    (folder / "linked.jsonl").symlink_to(tmp_path / "real.jsonl")
    assert names(folder / "linked.jsonl") == ["a.jpg"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "not_json"),
        (b"[]", "not_json"),
        (b"\xff\xfe{}", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"path": "a.jpg", "x": NaN}', "not_json"),
        (b'{"path": "a.jpg", "x": 1e999}', "not_json"),
        (b'{"path": "a.jpg", "x": ' + b"9" * 5000 + b"}", "not_json"),
        (b'{"path": "a.jpg", "x": ' + b"[" * 200 + b"]" * 200 + b"}", "bad_field"),
        (b'{"path": "a.jpg", "x": "' + b"y" * MAX_LINE + b'"}', "line_too_long"),
        ({}, "no_source"),
        ({"path": ""}, "no_source"),
        ({"path": 7}, "bad_field"),
        ({"path": "a.jpg", "license": 7}, "bad_field"),
        ({"path": "a.jpg", "attribution": ["Ann"]}, "bad_field"),
        ({"path": "a.jpg", "metadata": "title"}, "bad_field"),
        ({"path": "gone.jpg"}, "no_such_file"),
        ({"path": "nul\0.jpg"}, "no_such_file"),
        ({"path": "\ud800.jpg"}, "no_such_file"),
        ({"path": "x" * 10_000}, "no_such_file"),
        ({"path": "."}, "no_such_file"),
        ({"path": ".."}, "outside_folder"),
        ({"path": "../a.jpg", "url": "https://example.org/a.jpg"}, "outside_folder"),
        ({"path": "/dev/zero"}, "no_such_file"),
        ({"url": "ftp://example.org/a.jpg"}, "bad_url"),
        ({"url": "file:///etc/passwd"}, "bad_url"),
        ({"url": "https://me:secret@example.org/a.jpg"}, "bad_url"),
        ({"url": "https://"}, "bad_url"),
        ({"url": "a.jpg"}, "bad_url"),
        ({"url": "https://example.org:99999/"}, "bad_url"),
        ({"url": "https://exa\nmple.org/"}, "bad_url"),
        ({"url": "https://example.org/" + "x" * 9000}, "bad_url"),
        ({"url": "https://\ud800.org/"}, "bad_url"),
    ],
)
def test_a_bad_line_is_a_fault_by_number_and_its_neighbours_live(
    folder: Path, line: bytes | dict[str, Any], code: str
):
    put(folder, "a.jpg")
    path = listed(folder, {"path": "a.jpg"}, line, {"path": "a.jpg"})
    assert faults(path) == [("list.jsonl:2", code)]
    assert names(path) == ["a.jpg", "a.jpg"]


def test_byte_order_mark_and_carriage_returns_and_blank_lines_are_fine(folder: Path):
    put(folder, "a.jpg", "b.jpg")
    (folder / "list.jsonl").write_bytes(
        b'\xef\xbb\xbf{"path":"a.jpg"}\r\n\r\n   \n{"path":"b.jpg"}\n{"path":"gone"}'
    )
    assert names(folder / "list.jsonl") == ["a.jpg", "b.jpg"]
    assert faults(folder / "list.jsonl") == [("list.jsonl:5", "no_such_file")]


def test_text_is_nfc_without_control_characters(folder: Path):
    put(folder, "a.jpg")
    path = listed(
        folder,
        {
            "path": "a.jpg",
            "license": "\0CC\x1b0 ",
            "attribution": "Ame\u0301lie",
            "ti\0tle": ["x\0y", {"n": "\ud800"}],
        },
    )
    source = only(path)
    assert (source.license, source.attribution) == ("CC0", "Amélie")
    assert source.meta == {"title": ["xy", {"n": "?"}]}


def test_a_long_list_is_not_held_in_memory(folder: Path):
    line = json.dumps({"url": "https://example.org/a.jpg", "title": "x" * 1000}) + "\n"
    (folder / "list.jsonl").write_text(line * 5_000)
    tracemalloc.start()
    try:
        count = sum(isinstance(item, Source) for item in read_sources(folder / "list.jsonl"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 5_000
    assert peak < 2_000_000


def test_one_endless_line_is_not_held_in_memory(folder: Path):
    with (folder / "list.jsonl").open("wb") as file:
        file.truncate(60_000_000)
    tracemalloc.start()
    try:
        found = list(read_sources(folder / "list.jsonl"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [(item.name, item.code) for item in found if isinstance(item, SourceFault)] == [
        ("list.jsonl:1", "line_too_long")
    ]
    assert peak < 5_000_000


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    ["path", "file_name", "filename", "url", "license", "licence", "attribution", "metadata", "x"]
)


def _checked(items: Iterator[Source | SourceFault | SkippedFiles]) -> None:
    for item in items:
        if isinstance(item, Source):
            shown = json.dumps([item.name, item.license, item.attribution, item.meta], allow_nan=False)
            assert "\\u0000" not in shown
            assert not item.name.startswith("/")
            assert ".." not in item.name.split("/")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(field_names, json_values | st.text()), min_size=1, max_size=4))
def test_no_list_raises_and_every_source_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]
):
    folder = tmp_path_factory.getbasetemp()
    _checked(read_sources(listed(folder, *lines, name="random.jsonl")))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.getbasetemp() / "random.jsonl"
    path.write_bytes(content)
    _checked(read_sources(path))


@given(st.text())
def test_cleaned_text_is_clean_for_good(text: str):
    assert clean_text(clean_text(text)) == clean_text(text)
