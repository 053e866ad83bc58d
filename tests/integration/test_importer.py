"""Import of real files: twice is once, broken ones are named, and nothing of a photo's maker leaks."""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, PngImagePlugin
from PIL.ExifTags import GPS, IFD, Base
from support.engine import Engine

from coordinator.campaigns import Campaign
from coordinator.errors import OperatorError
from coordinator.fetching import Fetcher
from coordinator.importer import Importer, ImportReport, NewBatch, runs
from coordinator.keys import open_keys
from coordinator.objects import Objects
from coordinator.operations import Operations
from coordinator.priority import priority_of
from store import batches


def _picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture of many rectangles, unlike any other seed's."""
    rng = random.Random(seed)
    picture = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        corner = (x + rng.randrange(10, 80), y + rng.randrange(10, 80))
        draw.rectangle(((x, y), corner), fill=tuple(rng.randrange(256) for _ in range(3)))
    return picture


def _save(path: Path, picture: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


class Desk:
    """An operator's machine: objects, keys, and one campaign at a time."""

    def __init__(self, engine: Engine, folder: Path, fetcher: Fetcher) -> None:
        self.engine = engine
        self.objects = Objects(folder / "objects")
        self._keys = open_keys(folder / "keys", (), engine.time)
        self._fetcher = fetcher
        self.told: Callable[[ImportReport], None] = lambda _report: None

    async def run(self, campaign: Campaign, path: Path, batch: NewBatch | None = None) -> ImportReport:
        importer = Importer(
            self.engine.db,
            campaign,
            self.objects,
            self._keys,
            self._fetcher,
            random.Random(1),
            self.engine.now,
            batch,
        )
        return await importer.run(path, self.told)


@pytest.fixture
async def desk(engine: Engine, tmp_path: Path) -> AsyncIterator[Desk]:
    async with Fetcher() as fetcher:
        yield Desk(engine, tmp_path / "desk", fetcher)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, one in a subfolder."""
    folder = tmp_path / "photos"
    _save(folder / "a.jpg", _picture(1))
    _save(folder / "b.png", _picture(2))
    _save(folder / "deep" / "c.webp", _picture(3))
    return folder


async def _batches(engine: Engine) -> list[tuple[str, int, int]]:
    """(name, priority, units) of every batch, by the units' ids."""
    return await engine.fetch(
        "SELECT b.name, b.priority, count(u.id) FROM batches b JOIN batch_ranges r ON r.batch_id = b.id "
        "JOIN units u ON u.campaign_id = r.campaign_id AND u.id BETWEEN r.first_unit AND r.last_unit "
        "GROUP BY b.id ORDER BY b.id"
    )


async def test_what_is_imported_together_is_a_batch_and_nothing_new_makes_none(
    engine: Engine, desk: Desk, photos: Path, tmp_path: Path
):
    campaign = await engine.campaign(perspectives=2)
    first = await desk.run(campaign, photos)
    again = await desk.run(campaign, photos)
    _save(tmp_path / "more" / "d.jpg", _picture(4))
    more = await desk.run(campaign, tmp_path / "more")
    assert (first.batch, again.batch, more.batch) == ("2026-01-01-1", None, "2026-01-01-2")
    assert await _batches(engine) == [("2026-01-01-1", 0, 6), ("2026-01-01-2", 0, 2)]


async def test_a_named_batch_is_gone_on_with_at_its_own_priority(
    engine: Engine, desk: Desk, photos: Path, tmp_path: Path
):
    campaign = await engine.campaign()
    await desk.run(campaign, photos, NewBatch("street", 2))
    _save(tmp_path / "more" / "d.jpg", _picture(4))
    report = await desk.run(campaign, tmp_path / "more", NewBatch("street"))
    assert report.batch == "street"
    assert await _batches(engine) == [("street", 2, 4)]
    assert {priority_of(row[0]) for row in await engine.fetch("SELECT block FROM ready")} == {2}


async def test_units_that_are_born_while_a_batch_is_moved_come_with_its_new_priority(
    engine: Engine, desk: Desk, photos: Path, tmp_path: Path
):
    campaign = await engine.campaign()
    await desk.run(campaign, photos, NewBatch("street"))
    commands = Operations(engine.db, engine.campaigns, engine.now)
    [batch] = await engine.db.transaction("batches", lambda tx: batches.of_campaign(tx, campaign.id))
    assert await commands.prioritise_batch(batch, 3) == 3
    _save(tmp_path / "more" / "d.jpg", _picture(4))
    await desk.run(campaign, tmp_path / "more", NewBatch("street"))
    assert {priority_of(row[0]) for row in await engine.fetch("SELECT block FROM units")} == {3}


async def test_imports_at_once_share_no_unit_among_their_batches(engine: Engine, desk: Desk, tmp_path: Path):
    campaign = await engine.campaign(perspectives=3)
    for number in range(3):
        for picture in range(4):
            name = f"{picture}.jpg"
            _save(tmp_path / str(number) / name, _picture(10 * number + picture))
    folders = [tmp_path / str(number) for number in range(3)]
    reports = await asyncio.gather(*(desk.run(campaign, folder) for folder in folders))
    assert len({report.batch for report in reports}) == 3
    assert sorted(units for _, _, units in await _batches(engine)) == [12, 12, 12]


async def test_a_cancelled_campaign_takes_no_images(engine: Engine, desk: Desk, photos: Path):
    campaign = await engine.campaign()
    await Operations(engine.db, engine.campaigns, engine.now).cancel_campaign(campaign.id, "")
    with pytest.raises(OperatorError, match="chorus admin campaign reopen c"):
        await desk.run(campaign, photos)
    assert await engine.value("SELECT count(*) FROM units") == 0


def test_ids_are_told_as_ranges():
    assert runs([]) == []
    assert runs([3, 4, 5, 9, 11, 12]) == [(3, 5), (9, 9), (11, 12)]


async def test_a_folder_is_imported_once_however_often_it_is_run(engine: Engine, desk: Desk, photos: Path):
    campaign = await engine.campaign(perspectives=2)
    seen: list[int] = []
    desk.told = lambda report: seen.append(report.seen)
    first, again = await desk.run(campaign, photos), await desk.run(campaign, photos)
    assert (first.images, first.known, first.units, first.refused) == (3, 0, 6, [])
    assert (again.images, again.known, again.units, again.refused) == (0, 3, 0, [])
    assert await engine.value("SELECT count(*) FROM contents") == 3
    assert await engine.value("SELECT count(*) FROM ready") == 6
    assert await engine.fetch("SELECT filename FROM contents ORDER BY filename") == [
        ("a.jpg",),
        ("b.png",),
        ("deep/c.webp",),
    ]
    assert seen[-1] == 3


async def test_an_import_that_was_cut_off_goes_on_where_it_stood(
    engine: Engine, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("coordinator.importer.BATCH", 2)
    for number in range(5):
        _save(tmp_path / "photos" / f"{number}.png", _picture(number))
    campaign = await engine.campaign()

    class PowerCut(Exception):  # noqa: N818 (an event, not an error)
        pass

    def cut(_report: ImportReport) -> None:
        raise PowerCut

    desk.told = cut
    with pytest.raises(PowerCut):
        await desk.run(campaign, tmp_path / "photos")
    assert await engine.value("SELECT count(*) FROM units") == 2
    desk.told = lambda _report: None
    report = await desk.run(campaign, tmp_path / "photos")
    assert (report.images, report.known, report.units) == (3, 2, 3)


async def test_new_photos_in_a_known_folder_are_added(engine: Engine, desk: Desk, photos: Path):
    campaign = await engine.campaign()
    await desk.run(campaign, photos)
    _save(photos / "d.jpg", _picture(4))
    report = await desk.run(campaign, photos)
    assert (report.images, report.known, report.units) == (1, 3, 1)


async def test_a_photo_known_from_another_path_is_known_by_its_hash(
    engine: Engine, desk: Desk, photos: Path, tmp_path: Path
):
    campaign = await engine.campaign()
    await desk.run(campaign, photos)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "renamed.jpg").write_bytes((photos / "a.jpg").read_bytes())
    report = await desk.run(campaign, tmp_path / "other")
    assert (report.images, report.known, report.units) == (0, 1, 0)
    sources = await engine.fetch(
        "SELECT value FROM content_sources WHERE content_id = "
        "(SELECT id FROM contents WHERE filename = 'a.jpg')"
    )
    assert {Path(value).name for (value,) in sources} == {"a.jpg", "renamed.jpg"}


async def test_a_photo_that_is_known_is_not_decoded_again(
    engine: Engine, desk: Desk, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    campaign = await engine.campaign()
    await desk.run(campaign, photos)
    monkeypatch.setattr("coordinator.importer.make_derivative", None)
    assert (await desk.run(campaign, photos)).known == 3


async def test_another_campaign_takes_the_same_photos_without_storing_them_again(
    engine: Engine, desk: Desk, photos: Path
):
    await desk.run(await engine.campaign("one"), photos)
    report = await desk.run(await engine.campaign("two"), photos)
    assert (report.images, report.known, report.units) == (0, 3, 3)
    assert await engine.value("SELECT count(*) FROM contents") == 3


async def test_a_file_that_changed_is_another_image(engine: Engine, desk: Desk, photos: Path):
    campaign = await engine.campaign()
    await desk.run(campaign, photos)
    _save(photos / "a.jpg", _picture(77))
    report = await desk.run(campaign, photos)
    assert (report.images, report.known) == (1, 2)


async def test_broken_files_are_named_with_a_code_and_the_good_ones_go_in(
    engine: Engine, desk: Desk, photos: Path
):
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "page.jpg").write_bytes(b"<html>not found</html>")
    (photos / "notes.txt").write_text("not an image by its name")
    _save(photos / "tiny.png", _picture(9, (8, 8)))
    report = await desk.run(await engine.campaign(), photos)
    assert {refusal.name: refusal.code for refusal in report.refused} == {
        "cut.jpg": "truncated",
        "empty.jpg": "not_an_image",
        "page.jpg": "not_an_image",
        "tiny.png": "too_small",
    }
    assert all(refusal.detail for refusal in report.refused)
    assert (report.images, report.skipped_files, report.seen) == (3, 1, 7)


async def test_a_path_that_is_nothing_is_told(engine: Engine, desk: Desk, tmp_path: Path):
    report = await desk.run(await engine.campaign(), tmp_path / "nowhere")
    assert [refusal.code for refusal in report.refused] == ["no_such_path"]


async def test_a_list_gives_licence_attribution_and_more(engine: Engine, desk: Desk, photos: Path):
    written = [
        {"path": "a.jpg", "license": "CC0-1.0", "attribution": "Ann", "metadata": {"title": "Sea"}},
        {"path": "b.png", "license": "CC-BY-4.0", "attribution": "Bob"},
        {"path": "deep/c.webp"},
        {"path": "../outside.jpg", "license": "CC0-1.0"},
    ]
    listed = photos / "list.jsonl"
    listed.write_text("\n".join(map(json.dumps, written)) + "\nnot json\n")
    campaign = await engine.campaign(licenses=["CC0-1.0"])
    report = await desk.run(campaign, listed)
    assert {refusal.name: refusal.code for refusal in report.refused} == {
        "b.png": "license_not_taken",
        "deep/c.webp": "license_not_taken",
        "list.jsonl:4": "outside_folder",
        "list.jsonl:5": "not_json",
    }
    assert await engine.fetch("SELECT filename, license, attribution, meta FROM contents") == [
        ("a.jpg", "CC0-1.0", "Ann", {"title": "Sea"})
    ]


async def test_the_same_picture_saved_again_is_a_near_duplicate_and_another_is_none(
    engine: Engine, desk: Desk, tmp_path: Path
):
    folder = tmp_path / "photos"
    original = _picture(1, (640, 480))
    _save(folder / "1.png", original)
    _save(folder / "2.jpg", original.resize((320, 240)), quality=70)
    _save(folder / "3.jpg", _picture(2, (640, 480)))
    report = await desk.run(await engine.campaign(), folder)
    assert (report.images, report.near_duplicates) == (3, 1)
    assert dict(await engine.fetch("SELECT filename, near_duplicate_of FROM contents")) == {
        "1.png": None,
        "2.jpg": 1,
        "3.jpg": None,
    }


async def _derivative(engine: Engine, desk: Desk, name: str) -> bytes:
    digest = await engine.value("SELECT derivative_hash FROM contents WHERE filename = %s", name)
    content = await desk.objects.get(digest)
    assert content is not None
    return content


async def test_a_photo_is_turned_upright_and_its_place_and_camera_are_gone(
    engine: Engine, desk: Desk, tmp_path: Path
):
    picture = Image.new("RGB", (200, 100), "blue")
    picture.paste("red", (0, 0, 100, 100))
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # the top of the scene is on the picture's left
    exif[Base.Make] = "SecretCamera"
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (48.0, 12.0, 34.0)
    _save(tmp_path / "photos" / "turned.jpg", picture, exif=exif, comment=b"SecretComment", quality=95)
    await desk.run(await engine.campaign(), tmp_path / "photos")

    content = await _derivative(engine, desk, "turned.jpg")
    with Image.open(io.BytesIO(content)) as stored:
        assert stored.size == (100, 200)
        assert not stored.getexif()
        red, blue = stored.getpixel((50, 20)), stored.getpixel((50, 180))
    assert red[0] - red[2] > 150
    assert blue[2] - blue[0] > 150
    assert b"Secret" not in content
    assert await engine.fetch("SELECT width, height FROM contents") == [(100, 200)]


async def test_text_inside_a_png_does_not_reach_volunteers(engine: Engine, desk: Desk, tmp_path: Path):
    told = PngImagePlugin.PngInfo()
    told.add_text("parameters", "SecretPrompt")
    _save(tmp_path / "photos" / "made.png", _picture(5), pnginfo=told)
    await desk.run(await engine.campaign(), tmp_path / "photos")
    assert b"Secret" not in await _derivative(engine, desk, "made.png")


async def test_units_point_at_bytes_that_are_stored(engine: Engine, desk: Desk, photos: Path):
    await desk.run(await engine.campaign(), photos)
    for (digest,) in await engine.fetch("SELECT image_hash FROM units"):
        content = await desk.objects.get(digest)
        assert content is not None
        assert content.startswith(b"\xff\xd8")


async def test_a_private_address_in_a_list_is_never_called(engine: Engine, desk: Desk, tmp_path: Path):
    listed = tmp_path / "list.jsonl"
    urls = (
        "http://127.0.0.1:1/a.jpg",
        "http://[::1]/b.jpg",
        "http://169.254.169.254/c.jpg",
        "file:///etc/passwd",
    )
    listed.write_text("\n".join(json.dumps({"url": url}) for url in urls))
    report = await desk.run(await engine.campaign(), listed)
    assert [refusal.code for refusal in sorted(report.refused, key=lambda r: r.code)] == [
        "bad_url",
        *["private_address"] * 3,
    ]


def _list(folder: Path, name: str, photo: Path, **said: object) -> Path:
    listed = folder / name
    listed.write_text(json.dumps({"path": str(photo), **said}) + "\n", "utf-8")
    return listed


async def test_an_image_cannot_be_given_another_licence_by_another_campaign(
    engine: Engine, desk: Desk, tmp_path: Path
):
    photo = _save(tmp_path / "x.jpg", _picture(7))
    one = await engine.campaign("one")
    free = await engine.campaign("free", licenses=["CC0-1.0"])
    await desk.run(one, _list(tmp_path, "a.jsonl", photo, license="proprietary", attribution="Ann"))

    claimed = await desk.run(free, _list(tmp_path, "b.jsonl", photo, license="CC0-1.0", attribution="Bob"))
    silent = await desk.run(free, _list(tmp_path, "c.jsonl", photo))

    assert [refusal.code for refusal in claimed.refused] == ["license_conflict"]
    assert [refusal.code for refusal in silent.refused] == ["license_not_taken"]
    assert await engine.value("SELECT count(*) FROM units WHERE campaign_id = %s", free.id) == 0
    assert await engine.fetch("SELECT license, attribution FROM contents") == [("proprietary", "Ann")]


async def test_a_second_import_fills_in_what_was_not_known_of_an_image(
    engine: Engine, desk: Desk, tmp_path: Path
):
    photo = _save(tmp_path / "x.jpg", _picture(7))
    campaign = await engine.campaign(licenses=["CC0-1.0"])
    first = await desk.run(await engine.campaign("any"), photo)
    said = {"license": "CC0-1.0", "attribution": "Ann", "metadata": {"title": "A day"}}

    second = await desk.run(campaign, _list(tmp_path, "b.jsonl", photo, **said))

    assert (first.images, second.known, second.refused) == (1, 1, [])
    [(license_, attribution, meta)] = await engine.fetch("SELECT license, attribution, meta FROM contents")
    assert (license_, attribution) == ("CC0-1.0", "Ann")
    assert "A day" in json.dumps(meta)
