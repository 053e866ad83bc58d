"""Originals become small, clean, upright JPEGs; hostile bytes become refusals."""

import dataclasses
import hashlib
import io
import pickle
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from coordinator.derivative import (
    LONG_SIDE,
    NEAR_DUPLICATE_DISTANCE,
    Derivative,
    ImageRefused,
    Limits,
    make_derivative,
    phash_distance,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
PHOTOS = DATA / "demo_photos"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/data/demo_photos is not here")

METADATA_MARKS = (b"Exif", b"GPS", b"http://ns.adobe.com", b"ICC_PROFILE", b"Photoshop", b"secret")


def saved(picture: Image.Image, image_format: str, **options: Any) -> bytes:  # as Pillow takes them
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


def corners(width: int = 120, height: int = 80, mode: str = "RGB") -> Image.Image:
    """Red, green, blue and yellow quarters, clockwise from the top left: no turn leaves it alike."""
    picture = Image.new("RGB", (width, height), "red")
    half_x, half_y = width // 2, height // 2
    picture.paste("green", (half_x, 0, width, half_y))
    picture.paste("blue", (half_x, half_y, width, height))
    picture.paste("yellow", (0, half_y, half_x, height))
    return picture.convert(mode)


def pixels(jpeg: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture, dtype=np.int16)


def refusal(original: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ImageRefused) as caught:
        make_derivative(original, limits=limits or Limits())
    assert caught.value.detail
    return caught.value.code


def assert_clean(derivative: Derivative) -> None:
    jpeg = derivative.jpeg
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.format == "JPEG"
        assert picture.mode == "RGB"
        assert picture.size == (derivative.width, derivative.height)
        assert set(picture.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        picture.load()
    assert max(derivative.width, derivative.height) <= LONG_SIDE
    assert b"\xff\xc0" in jpeg, "not baseline"
    assert b"\xff\xc2" not in jpeg, "progressive"
    assert not [mark for mark in METADATA_MARKS if mark in jpeg]
    assert derivative.jpeg_hash == hashlib.sha256(jpeg).digest()


def noise(width: int, height: int) -> Image.Image:
    seeded = np.random.default_rng(7)
    return Image.fromarray(seeded.integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- what a derivative is ---


def test_facts_of_the_original_are_told_and_the_bytes_are_deterministic():
    original = saved(corners(2048, 1024), "PNG")
    first, second = make_derivative(original), make_derivative(original)
    assert first == second
    assert first.hash == hashlib.sha256(original).digest()
    assert first.size == len(original)
    assert (first.original_width, first.original_height) == (2048, 1024)
    assert (first.width, first.height) == (1024, 512)
    assert_clean(first)


def test_small_pictures_are_never_enlarged():
    derivative = make_derivative(saved(corners(60, 40), "PNG"))
    assert (derivative.width, derivative.height) == (60, 40)


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_every_format_is_known_by_its_content(image_format: str):
    derivative = make_derivative(saved(corners(), image_format))
    assert derivative.format == image_format
    assert_clean(derivative)
    expected = pixels(make_derivative(saved(corners(), "PNG")).jpeg)
    assert np.abs(pixels(derivative.jpeg) - expected).mean() < 8


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x03no\0\0\0\0\0\0",  # an orientation in words
    ],
)
def test_damaged_exif_does_not_cost_the_picture(exif: bytes):
    assert make_derivative(saved(corners(), "JPEG", exif=exif)).width == 120


def test_a_phone_s_several_pictures_in_one_jpeg_are_its_first():
    original = saved(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (120, 80), "black")])
    derivative = make_derivative(original)
    assert derivative.format == "jpeg"
    assert pixels(derivative.jpeg)[20, 30, 0] > 200


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_come_out_upright(orientation: int, image_format: str):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners().transpose(undo[orientation]) if orientation > 1 else corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    derivative = make_derivative(saved(stored, image_format, exif=exif))
    assert (derivative.original_width, derivative.original_height) == (120, 80)
    assert (derivative.width, derivative.height) == (120, 80)
    middles = pixels(derivative.jpeg)[[20, 20, 60, 60], [30, 90, 90, 30]]
    truth = np.array([(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0)])
    assert np.abs(middles - truth).max() < 25


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp", "tiff", "avif"])
def test_position_and_every_other_metadata_is_gone(image_format: str):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    exif.get_ifd(0x8825).update({1: "N", 2: (46.0, 12.0, 5.0), 3: "E", 4: (6.0, 9.0, 1.0)})
    options: dict[str, Any] = {"exif": exif, "icc_profile": _srgb_profile()}
    if image_format in ("jpeg", "png"):
        options["comment" if image_format == "jpeg" else "pnginfo"] = (
            b"secret comment" if image_format == "jpeg" else _secret_text()
        )
    if image_format in ("jpeg", "webp", "avif"):
        options["xmp"] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>secret</x:xmpmeta>"
    original = saved(corners(), image_format, **options)
    assert b"secret" in original
    assert_clean(make_derivative(original))


@pytest.mark.parametrize("image_format", ["JPEG", "GIF"])
def test_a_comment_is_gone_from_a_picture_that_is_not_otherwise_changed(image_format: str):
    original = saved(corners(), image_format, comment=b"secret comment")
    assert b"secret" in original
    assert_clean(make_derivative(original))


def _secret_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret")
    text.add_text("comment", "secret")
    return text


def _srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# --- modes and colour ---


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "YCbCr"])
def test_every_colour_mode_becomes_plain_rgb(mode: str):
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(corners(mode="L")).astype(np.uint16) * 257)
    else:
        picture = corners(mode=mode)
    derivative = make_derivative(saved(picture, "PNG" if mode in ("LA", "P", "RGBA", "1") else "TIFF"))
    assert_clean(derivative)
    light = pixels(derivative.jpeg).mean(axis=2)
    assert light[60, 30] > light[60, 90] + 40, "yellow must stay lighter than blue"


def test_sixteen_bits_of_grey_keep_their_brightness():
    ramp = np.linspace(0, 65535, 128, dtype=np.uint16)[None, :].repeat(64, axis=0)
    light = pixels(make_derivative(saved(Image.fromarray(ramp), "PNG")).jpeg)[32, :, 0]
    assert np.abs(light - np.linspace(0, 255, 128)).max() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_on_white(mode: str):
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 32, 64))
    if mode == "P":
        original = saved(picture.convert("RGB").convert("P"), "PNG", transparency=bytes([0] * 256))
        assert pixels(make_derivative(original).jpeg).min() > 250
    else:
        light = pixels(make_derivative(saved(picture.convert(mode), "PNG")).jpeg)
        assert light[32, 8].max() < 5
        assert light[32, 56].min() > 250


def test_only_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    for image_format in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        original = saved(frames[0], image_format, save_all=True, append_images=frames[1:])
        red, green, blue = pixels(make_derivative(original).jpeg)[32, 32]
        assert red > 200, image_format
        assert max(green, blue) < 40, image_format


def test_the_colour_profile_is_applied():
    swapped = bytearray(_srgb_profile())
    count = struct.unpack_from(">I", swapped, 128)[0]
    tags = {bytes(swapped[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    original = saved(Image.new("RGB", (64, 64), (255, 0, 0)), "PNG", icc_profile=bytes(swapped))
    pixel = pixels(make_derivative(original).jpeg)[32, 32]
    assert pixel[2] > 200 > pixel[0] + 100, "red under a profile with red and blue swapped is blue"


@pytest.mark.parametrize(
    "profile",
    [b"nonsense", b"\0" * 200, _srgb_profile()[:300], b"x" * 5_000_000],
    ids=["text", "zeros", "cut", "huge"],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_profile_is_as_good_as_none(profile: bytes, mode: str):
    plain = make_derivative(saved(corners(mode=mode), "TIFF"))
    assert make_derivative(saved(corners(mode=mode), "TIFF", icc_profile=profile)).jpeg == plain.jpeg


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_of_another_colour_space_does_no_harm(mode: str):
    plain = make_derivative(saved(corners(mode=mode), "TIFF"))
    profiled = make_derivative(saved(corners(mode=mode), "TIFF", icc_profile=_srgb_profile()))
    assert np.abs(pixels(plain.jpeg) - pixels(profiled.jpeg)).max() < 12


# --- refusals ---


@pytest.mark.parametrize(
    ("original", "code"),
    [
        (b"", "not_an_image"),
        (b"<html><script>alert(1)</script>", "not_an_image"),
        (b"#!/bin/sh\n", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "unsupported_format"),
        (b"%PDF-1.7\n", "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),
        (b"\xff\xd8\xff", "broken"),
        (b"BM", "broken"),
        (b"\x89PNG\r\n\x1a\n", "broken"),
        (b"RIFF\0\0\0\0WEBP", "broken"),
        (b"\0\0\0\x18ftypavif" + b"\0" * 40, "broken"),
    ],
)
def test_what_is_no_picture_of_ours_is_refused_by_code(original: bytes, code: str):
    assert refusal(original) == code


def test_an_avif_may_call_itself_heif_first():
    original = saved(corners(), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert make_derivative(original).format == "avif"


def test_a_polyglot_leaves_only_its_picture_behind():
    jpeg = saved(corners(), "JPEG")
    derivative = make_derivative(jpeg + b"<script>secret</script>PK\x03\x04")
    assert b"script" not in derivative.jpeg
    assert_clean(derivative)


def test_limits_refuse_by_code():
    original = saved(corners(120, 80), "PNG")
    assert refusal(original, Limits(max_bytes=len(original) - 1)) == "too_large"
    assert refusal(original, Limits(max_pixels=120 * 80 - 1)) == "too_many_pixels"
    assert refusal(original, Limits(max_aspect=1.4)) == "too_thin"
    assert refusal(saved(corners(120, 27), "PNG")) == "too_small"
    assert refusal(saved(corners(2830, 28), "PNG")) == "too_thin"
    assert make_derivative(saved(corners(2800, 28), "PNG")).width == LONG_SIDE
    assert make_derivative(original, limits=Limits(max_bytes=len(original), max_pixels=9600)).width == 120


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _gif_header(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"\x2c" + b"\0" * 10 + b";"


@pytest.mark.parametrize(
    "bomb",
    [
        _png_header(60_000, 60_000),
        _png_header(10_001, 10_000),  # above our limit, below Pillow's
        _png_header(2**31 - 1, 2**31 - 1),
        _gif_header(65_535, 65_535),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(bomb: bytes):
    assert refusal(bomb) == "too_many_pixels"


@pytest.mark.parametrize("side", [60_000, 10_001], ids=["Pillow refuses", "Pillow warns"])
def test_a_bomb_takes_no_memory_and_no_warning_is_shown(side: int):
    script = """
import resource, sys
from coordinator.derivative import ImageRefused, make_derivative
bomb = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    make_derivative(bomb)
except ImageRefused as refused:
    print(refused.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        input=_png_header(side, side),
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    code, grown_kb = ran.stdout.decode().split()
    assert code == "too_many_pixels"
    assert int(grown_kb) < 30_000
    assert ran.stderr == b""


def test_a_jpeg_of_a_thousand_scans_is_refused():
    jpeg = saved(Image.new("RGB", (2000, 2000), "red"), "JPEG", progressive=True)
    last = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    assert refusal(jpeg[:-2] + last * 1000 + jpeg[-2:]) == "too_complex"
    assert_clean(make_derivative(jpeg))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_file_cut_in_the_middle_is_called_truncated(image_format: str):
    whole = saved(noise(300, 200), image_format)
    assert refusal(whole[: len(whole) // 2]) == "truncated"


@pytest.mark.parametrize("image_format", ["WEBP", "AVIF"])
def test_a_cut_file_of_an_all_or_nothing_format_is_refused(image_format: str):
    whole = saved(noise(300, 200), image_format)
    assert refusal(whole[: len(whole) // 2]) in {"truncated", "broken"}


def test_a_refusal_crosses_process_borders():
    refused = ImageRefused("too_thin", "as thin as that")
    copy = pickle.loads(pickle.dumps(refused))  # noqa: S301  # our own bytes
    assert (copy.code, copy.detail) == (refused.code, refused.detail)
    assert str(copy) == "as thin as that (too_thin)"


def _never_crashes(original: bytes) -> None:
    try:
        derivative = make_derivative(original, limits=Limits(max_pixels=1_000_000))
    except ImageRefused:
        return
    assert_clean(derivative)


SEEDS = [
    saved(corners(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    saved(corners(), "JPEG", progressive=True, icc_profile=_srgb_profile()),
    saved(corners(), "PNG", icc_profile=_srgb_profile()),
    saved(corners(mode="P"), "PNG", transparency=0),
    saved(corners(), "WEBP"),
    saved(corners(mode="RGBA"), "WEBP", lossless=True),
    saved(corners(), "GIF"),
    saved(corners(), "BMP"),
    saved(corners(), "TIFF", compression="tiff_lzw"),
    saved(corners(mode="CMYK"), "TIFF", compression="tiff_adobe_deflate"),
    saved(corners(), "AVIF"),
]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([seed[:16] for seed in SEEDS] + [b""]))
def test_random_bytes_never_crash(tail: bytes, head: bytes):
    _never_crashes(head + tail)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    st.floats(0.2, 1),
)
def test_mutated_files_never_crash(seed: bytes, changes: list[tuple[float, int]], keep: float):
    mutated = bytearray(seed)
    for place, value in changes:
        # Squared, so that headers are hit more often than pixels.
        mutated[int(place**2 * (len(mutated) - 1))] = value
    _never_crashes(bytes(mutated[: int(len(mutated) * keep)]))


# --- likeness ---


def test_a_flat_picture_has_no_likeness():
    assert make_derivative(saved(Image.new("RGB", (64, 64), "white"), "PNG")).phash == 0
    assert make_derivative(saved(Image.new("RGB", (64, 64), (12, 90, 33)), "PNG")).phash == 0


def test_distance_counts_bits_of_signed_numbers():
    assert phash_distance(0, 0) == 0
    assert phash_distance(-1, 0) == 64
    assert phash_distance(-(2**63), 2**63 - 1) == 64
    assert phash_distance(5, 4) == 1


@needs_photos
def test_resaved_photos_are_near_and_different_photos_are_far():
    photos = sorted(PHOTOS.glob("*.jpg"))
    hashes = []
    for path in photos:
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        plain = make_derivative(path.read_bytes())
        half = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)
        for variant in (
            saved(photo, "JPEG", quality=60),
            saved(half, "JPEG", quality=60),
            saved(half, "WEBP"),
        ):
            assert phash_distance(plain.phash, make_derivative(variant).phash) <= NEAR_DUPLICATE_DISTANCE
        assert -(2**63) <= plain.phash < 2**63
        hashes.append(plain.phash)
    apart = [phash_distance(one, other) for at, one in enumerate(hashes) for other in hashes[:at]]
    assert min(apart) > NEAR_DUPLICATE_DISTANCE


@needs_photos
def test_likeness_sees_the_upright_picture():
    original = (PHOTOS / "chelsea.jpg").read_bytes()
    with Image.open(io.BytesIO(original)) as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    derivative = make_derivative(saved(turned, "JPEG", quality=90, exif=exif))
    assert phash_distance(derivative.phash, make_derivative(original).phash) <= 4


@needs_photos
def test_threads_agree_with_one_another():
    originals = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:8]]
    alone = [make_derivative(original) for original in originals]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make_derivative, originals)) == alone


def test_a_derivative_is_a_value():
    derivative = make_derivative(saved(corners(), "PNG"))
    assert pickle.loads(pickle.dumps(derivative)) == derivative  # noqa: S301  # our own bytes
    with pytest.raises(dataclasses.FrozenInstanceError):
        derivative.width = 1  # type: ignore[misc]  # what is tested
