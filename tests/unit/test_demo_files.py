"""The files that the demo brings along fit its code and are credited."""

from pathlib import Path

import pytest
from PIL import Image

from captions.perspective import Perspective
from chorus import demo
from chorus.demo.scenes import Colour, Position, Shape

FOLDER = Path(demo.__file__).parent
PERSPECTIVES = {path.stem: path for path in (FOLDER / "perspectives").glob("*.json")}
PHOTOS = sorted((FOLDER / "photos").glob("*.jpg"))


@pytest.mark.parametrize("name", ["scene_caption", "scene_objects"])
def test_a_perspective_file_loads_under_its_own_name(name: str):
    assert Perspective.parse(PERSPECTIVES[name].read_bytes()).name == name


def test_the_choices_of_scene_objects_are_those_of_the_scenes():
    (objects,) = Perspective.parse(PERSPECTIVES["scene_objects"].read_bytes()).schema_fields
    choices = {field.name: field.enum for field in objects.fields}
    assert choices == {"shape": tuple(Shape), "colour": tuple(Colour), "position": tuple(Position)}


def test_every_photo_is_credited_and_modest():
    credited = (FOLDER / "photos" / "CREDITS.md").read_text()
    assert len(PHOTOS) == 16
    assert all(f"| {photo.name} |" in credited for photo in PHOTOS)
    assert sum(photo.stat().st_size for photo in PHOTOS) < 1_200_000


def test_no_photo_tells_where_it_was_taken():
    gps = 0x8825
    for photo in PHOTOS:
        with Image.open(photo) as image:
            assert gps not in image.getexif()
