"""The engine against a real captioner, and against its ways to misbehave."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from support.plain import TASK

from volunteer_client.endpoint_error import JobWrong, Wait
from volunteer_client.engine import Answered, Engine

PHOTO = Path(__file__).parents[3] / "shared" / "data" / "demo_photos" / "chelsea.jpg"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("", Answered),
        ("fence", Answered),
        ("think", Answered),
        ("badjson", JobWrong),
        ("truncate", JobWrong),
        ("empty", JobWrong),
        ("429", Wait),
        ("500", Wait),
        ("503", Wait),
        ("html", Wait),
    ],
)
async def test_a_real_captioner_and_its_faults(captioner: str, fault: str, kind: type):
    photo = BytesIO()
    Image.open(PHOTO).resize((224, 224)).save(photo, "JPEG")
    headers = {"X-Test-Fault": fault}
    async with Engine(captioner, "tiny-captioner-flickr8k", None, seed=1, headers=headers) as engine:
        assert isinstance(await engine.ask(TASK, TASK.prompt(), photo.getvalue(), "1/1"), kind)
