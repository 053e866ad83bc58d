"""The derivative: the small, clean JPEG that volunteers see, made from an original's bytes.

Pure functions of bytes, fit for worker processes and threads. Whatever the bytes, the answer is a
`Derivative` or an `ImageRefused`. The caller owns time: a decoder cannot be stopped from within.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageCms

ImageFormat: TypeAlias = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"]
ImageRefusal: TypeAlias = Literal[
    "not_an_image",  # no image format that we know begins like this
    "unsupported_format",  # an image, but of a kind that is not taken
    "too_large",  # bytes
    "too_many_pixels",  # refused before anything is decoded
    "too_small",
    "too_thin",
    "too_complex",  # small in bytes, but made to cost hours of decoding
    "truncated",
    "broken",
]

LONG_SIDE = 1024
QUALITY = 90

# Of 255,970 pairs of different photos the closest were 14 bits apart; the same photo at half size and
# quality 60 was at most 4 apart, 15 % brighter at most 8.
NEAR_DUPLICATE_DISTANCE = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken: at most so many bytes, pixels, long side ÷ short side; at least a side in pixels."""

    max_bytes: int = 50_000_000
    max_pixels: int = 100_000_000
    max_aspect: float = 100.0
    min_side: int = 28
    # Every scan of a progressive JPEG visits all its pixels again; an honest one has about ten.
    max_scanned_pixels: int = 2_000_000_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Derivative:
    """An upright sRGB baseline JPEG of at most 1,024 px a side, free of metadata, and facts of its original.

    `hash` and `jpeg_hash` are SHA-256 (32 bytes) of the original and of `jpeg`; `size` is the original's
    bytes; widths and heights are pixels after the EXIF turn; `phash` is a signed 64-bit integer.
    """

    hash: bytes
    size: int
    format: ImageFormat
    original_width: int
    original_height: int
    jpeg: bytes
    jpeg_hash: bytes
    width: int
    height: int
    phash: int


class ImageRefused(ValueError):  # noqa: N818  # a refusal is an answer, not a fault of the program
    """The bytes make no derivative; `code` is stable, `detail` is for people."""

    def __init__(self, code: ImageRefusal, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} ({self.code})"


def make_derivative(original: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Derivative:
    """The derivative of the first frame of an image file; the same bytes give the same derivative.

    Raises ImageRefused, and nothing else, on whatever bytes it is given. Takes up to 9 bytes of memory
    per pixel of the original; a baseline JPEG takes far less.
    """
    if len(original) > limits.max_bytes:
        raise ImageRefused("too_large", f"{len(original):,} bytes; at most {limits.max_bytes:,} are taken")
    image_format = _sniff(original)
    with _refusing(image_format), Image.open(io.BytesIO(original), formats=[image_format]) as image:
        width, height = image.size
        _check_size(width, height, limits)
        if image_format == "jpeg":
            _check_scans(original, width * height, limits)
        picture = _to_srgb(_shrink(image), image.info.get("icc_profile"))
        turn = _TURNS.get(_orientation(image))
        if turn is not None:
            picture = picture.transpose(turn)
            if turn in _SWAPPING:
                width, height = height, width
        jpeg = _encode(picture)
        return Derivative(
            hash=hashlib.sha256(original).digest(),
            size=len(original),
            format=image_format,
            original_width=width,
            original_height=height,
            jpeg=jpeg,
            jpeg_hash=hashlib.sha256(jpeg).digest(),
            width=picture.width,
            height=picture.height,
            phash=perceptual_hash(picture),
        )


def perceptual_hash(picture: Image.Image) -> int:
    """DCT hash of how the light lies, as a signed 64-bit integer; a picture of one flat colour has 0."""
    light = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    wave = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
    strengths = wave @ light @ wave.T
    strengths[0, 0] = 0.0  # the mean brightness says nothing of the picture
    strengths = strengths.round(3)  # a flat picture leaves only rounding noise
    bits = np.packbits(strengths.ravel() > np.median(strengths))
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def phash_distance(one: int, other: int) -> int:
    """How many of the 64 bits differ; up to `NEAR_DUPLICATE_DISTANCE` means the same picture, re-saved."""
    return ((one ^ other) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


_SIGNATURES: tuple[tuple[int, bytes, ImageFormat], ...] = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
)

# Only to tell people what they have.
_FOREIGN = (
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"\0\0\x01\0", "icon"),
    (0, b"<svg", "SVG"),
)


def _sniff(original: bytes) -> ImageFormat:
    for offset, signature, image_format in _SIGNATURES:
        if original.startswith(signature, offset):
            return image_format
    if original[4:8] == b"ftyp" and b"avi" in original[8:40]:  # among the brands that share this container
        return "avif"
    for offset, signature, name in _FOREIGN:
        if original.startswith(signature, offset):
            detail = f"{name} files are not taken; convert it to JPEG, PNG or WebP"
            raise ImageRefused("unsupported_format", detail)
    raise ImageRefused("not_an_image", "the file is empty" if not original else "the content is not an image")


@contextmanager
def _refusing(image_format: ImageFormat) -> Iterator[None]:
    """Turns whatever a decoder says of bad bytes into ImageRefused."""
    # What Pillow warns of is refused or harmless here. `catch_warnings` would not be safe in threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("too_many_pixels", str(error)) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        if isinstance(error, EOFError) or "truncated" in str(error).lower():
            raise ImageRefused("truncated", f"the {image_format} file ends too early") from error
        detail = f"it begins like a {image_format} but is damaged or of an unusual kind: {error}"
        raise ImageRefused("broken", detail) from error


def _check_size(width: int, height: int, limits: Limits) -> None:
    size = f"{width:,} × {height:,} pixels"
    if width * height > limits.max_pixels:
        raise ImageRefused("too_many_pixels", f"{size}; at most {limits.max_pixels:,} in all are taken")
    if min(width, height) < limits.min_side:
        raise ImageRefused("too_small", f"{size}; at least {limits.min_side} a side are needed")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageRefused("too_thin", f"{size}; at most {limits.max_aspect:g} times as long as wide")


def _check_scans(original: bytes, pixels: int, limits: Limits) -> None:
    scans = original.count(b"\xff\xda")
    if scans * pixels > limits.max_scanned_pixels and scans > 1:
        raise ImageRefused("too_complex", f"a JPEG of {scans:,} scans; save it again as a plain JPEG")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))


def _orientation(image: Image.Image) -> int:
    """How a loaded image lies, as in EXIF (1–8); 1 where the metadata is missing or damaged.

    Pillow turns a TIFF while it loads it and then forgets the orientation.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # a damaged EXIF block raises anything
        return 1


def _shrink(image: Image.Image) -> Image.Image:
    """The picture at the derivative's size, not yet turned, in L, RGB or CMYK, alpha flattened on white."""
    scale = min(1.0, LONG_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    image.draft(None, (width, height))  # lets the JPEG decoder leave out what would be thrown away
    image.load()
    picture: Image.Image = image
    if picture.has_transparency_data and picture.mode != "RGBA":
        picture = picture.convert("RGBA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode in ("P", "RGBX", "YCbCr"):
        picture = picture.convert("RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    match picture.mode:
        case "L" | "RGB" | "CMYK":
            return picture
        case "RGBA":
            white = Image.new("RGB", picture.size, "white")
            white.paste(picture, mask=picture.getchannel("A"))
            return white
        case "I" | "F" | "I;16" | "I;16B" | "I;16L" | "I;16N":
            return _to_eight_bits(picture)
        case mode:
            raise ImageRefused("unsupported_format", f"colour mode {mode}; save it as plain RGB")


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits loses the low ones; integers and floats, whose range is not known, are stretched."""
    light = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0.0, neginf=0.0)
    if picture.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = light.min(), light.max()
    light = (light - low) * (255.0 / max(high - low, 1e-9))
    return Image.fromarray(light.round().clip(0, 255).astype(np.uint8))


_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, by the ICC profile where it is sane and fits the picture, else as if the picture were sRGB."""
    if profile and len(profile) <= 4_000_000:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _MODE_OF_SPACE.get(source.profile.xcolor_space.strip())
            if mode == picture.mode or (mode == "RGB" and picture.mode == "L"):
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(picture.convert(mode), source, target, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile that cannot be used is as good as none
    return picture.convert("RGB")


def _encode(picture: Image.Image) -> bytes:
    picture.info.clear()  # Pillow would write a comment found there
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()
