"""Images as every model server takes them: baseline RGB JPEG, at most 1,024 px."""

import io
import warnings

from PIL import Image, ImageOps

LONGEST_PX = 1024
SHORTEST_PX = 28
MOST_PX = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP")


class PictureError(Exception):
    """Bytes that no model is shown. `code` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def as_baseline_jpeg(data: bytes) -> bytes:
    """The same bytes where they are such a JPEG already, else made into one. Raises PictureError.

    Everything is decoded once, so that no truncated or hostile file reaches a model server.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _converted(data)
    except PictureError:
        raise
    except Exception as error:  # noqa: BLE001  # Pillow's decoders raise nearly anything on hostile bytes
        raise PictureError("image_unreadable", type(error).__name__) from None


def _converted(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MOST_PX:
            raise PictureError("image_too_many_pixels", f"{image.width} x {image.height}")
        if min(image.size) < SHORTEST_PX or max(image.size) > 100 * min(image.size):
            raise PictureError("image_too_thin", f"{image.width} x {image.height}")
        is_plain = image.format == "JPEG" and image.mode == "RGB" and not image.info.get("progressive")
        if is_plain and max(image.size) <= LONGEST_PX and not image.getexif():
            image.load()
            return data
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.new("RGB", rgba.size, "white")
            upright.paste(rgba, mask=rgba.getchannel("A"))
        rgb = upright.convert("RGB")
        rgb.thumbnail((LONGEST_PX, LONGEST_PX))
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=90)
        return out.getvalue()
