"""The export after reference/formats.md: graphcap's dataset lines, and beside them where each came from."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.engine import Engine, caption, key_of

from coordinator import export as export_module
from coordinator.campaigns import Campaign, find_row
from coordinator.errors import OperatorError
from coordinator.export import ExportReport, export
from store import annotations

IMAGES = 30
NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def _accepted(engine: Engine, images: int = IMAGES, **policy: Any) -> Campaign:
    campaign = await engine.campaign(**policy)
    await engine.images(campaign, images)
    for caller in (await engine.host(user="ann"), await engine.host(user="bob")):
        units = await engine.lease(caller, want=images)
        await engine.give(caller, {key_of(unit): caption(unit.id) for unit in units})
    await engine.upkeep()
    return campaign


async def _export(engine: Engine, folder: Path) -> ExportReport:
    return await export(engine.db, await find_row(engine.db, "c"), folder, NOW)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "annotations.jsonl").read_bytes().splitlines()]


async def test_a_line_has_graphcaps_fields_and_its_provenance(engine: Engine, tmp_path: Path):
    await _accepted(engine)
    await engine.fetch(
        "UPDATE contents SET license = 'CC0-1.0', attribution = 'Ann', url = 'https://h/1.jpg', "
        'meta = \'{"title": "Été"}\' WHERE id = 1 RETURNING id'
    )
    report = await _export(engine, tmp_path)
    assert (report.annotations, report.images, report.folder) == (IMAGES, IMAGES, tmp_path)

    line = next(line for line in _lines(tmp_path) if line["image"]["license"])
    graphcap = {"filename", "config_name", "version", "model", "provider", "parsed"}
    assert set(line) == graphcap | {
        "image",
        "annotation_id",
        "annotation_version",
        "manually_adjusted",
        "confidence",
        "provenance",
    }
    assert (line["config_name"], line["version"], line["model"], line["provider"]) == (
        "sentence1",
        "1",
        "m",
        "test",
    )
    assert list(line["parsed"]) == ["caption"]
    image = line["image"]
    assert (image["license"], image["attribution"], image["url"]) == ("CC0-1.0", "Ann", "https://h/1.jpg")
    assert image["metadata"] == {"title": "Été"}
    assert len(image["sha256"]) == len(image["derivative_sha256"]) == 64
    assert 0.95 <= line["confidence"] <= 1

    results = line["provenance"]["results"]
    assert sum(result["canonical"] for result in results) == 1
    assert all(result["agrees"] is True and 0 < result["support"] <= 1 for result in results)
    stored = {digest.hex() for (digest,) in await engine.fetch("SELECT hash FROM results")}
    assert {result["sha256"] for result in results} < stored


async def test_the_metadata_says_what_it_describes(engine: Engine, tmp_path: Path):
    await _accepted(engine, output_license="CC-BY-4.0")
    await _export(engine, tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text("utf-8"))
    content = (tmp_path / metadata["location"]).read_bytes()
    assert metadata["sha256"] == hashlib.sha256(content).hexdigest()
    assert content.count(b"\n") == metadata["annotations"] == metadata["images"] == IMAGES
    assert metadata["annotation_license"] == "CC-BY-4.0"
    assert metadata["image_licenses"] == {"unknown": IMAGES}
    assert (metadata["campaign"], metadata["version"]) == ("c", "1")
    assert metadata["exported_at"] == "2026-01-02T00:00:00+00:00"
    assert metadata["policy"]["replication"] == 2


async def test_a_files_place_on_the_operators_disk_stays_there(engine: Engine, tmp_path: Path):
    await _accepted(engine, images=12)
    await _export(engine, tmp_path)
    assert b"file:" not in (tmp_path / "annotations.jsonl").read_bytes()
    assert {line["image"]["url"] for line in _lines(tmp_path)} == {None}


async def test_a_host_is_a_number_and_never_a_name_or_key(engine: Engine, tmp_path: Path):
    await _accepted(engine, images=12)
    await _export(engine, tmp_path)
    [(key,)] = await engine.fetch("SELECT encode(public_key, 'hex') FROM hosts LIMIT 1")
    text = (tmp_path / "annotations.jsonl").read_text("utf-8")
    assert key not in text
    assert '"ann"' not in text


async def test_only_what_is_published_is_exported(engine: Engine, tmp_path: Path):
    await _accepted(engine)
    await engine.fetch("UPDATE annotations SET status = 'withdrawn' WHERE id <= 5 RETURNING id")
    await engine.fetch("UPDATE annotations SET status = 'held' WHERE id > 25 RETURNING id")
    assert (await _export(engine, tmp_path)).annotations == 20
    assert all(5 < line["annotation_id"] <= 25 for line in _lines(tmp_path))


@pytest.mark.parametrize("page", [1, 7, IMAGES, IMAGES + 1])
async def test_pages_of_any_size_give_every_row_once_and_in_order(engine: Engine, page: int):
    campaign = await _accepted(engine)
    ids = [row.id async for row in annotations.published(engine.db, campaign.id, page)]
    assert ids == sorted(set(ids))
    assert len(ids) == IMAGES


async def test_equal_data_gives_equal_bytes_and_replaces_an_older_export(engine: Engine, tmp_path: Path):
    await _accepted(engine, images=12)
    (tmp_path / "annotations.jsonl").write_text("old")
    await _export(engine, tmp_path)
    first = (tmp_path / "annotations.jsonl").read_bytes()
    await _export(engine, tmp_path)
    assert (tmp_path / "annotations.jsonl").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.jsonl", "metadata.json"]


async def test_an_export_that_fails_leaves_the_older_one_whole(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    await _accepted(engine, images=12)
    await _export(engine, tmp_path)
    before = (tmp_path / "annotations.jsonl").read_bytes()
    lines = iter(range(3))
    real = export_module.dataset_line

    def full_disk(row: annotations.ExportRow) -> dict[str, Any]:
        if next(lines, None) is None:
            raise OSError("No space left on device")
        return real(row)

    monkeypatch.setattr(export_module, "dataset_line", full_disk)
    with pytest.raises(OSError, match="No space"):
        await _export(engine, tmp_path)
    assert (tmp_path / "annotations.jsonl").read_bytes() == before


async def test_an_empty_campaign_exports_an_empty_file(engine: Engine, tmp_path: Path):
    await engine.campaign()
    assert (await _export(engine, tmp_path / "new" / "folder")).annotations == 0
    assert (tmp_path / "new" / "folder" / "annotations.jsonl").read_bytes() == b""


async def test_a_campaign_that_is_not_there_is_told_with_those_that_are(engine: Engine):
    with pytest.raises(OperatorError, match="chorus admin campaign create") as none:
        await find_row(engine.db, "x")
    await engine.campaign("landscapes")
    with pytest.raises(OperatorError, match="landscapes") as some:
        await find_row(engine.db, "x")
    assert {none.value.code, some.value.code} == {"campaign_unknown"}
