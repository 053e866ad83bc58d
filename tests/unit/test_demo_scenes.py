"""The demo's pictures show what their truth says, and readers see it."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chorus.demo import sight
from chorus.demo.scenes import BACKGROUNDS, SIDE, Colour, Position, Scene, Shape, make_scenes, render
from chorus.demo.sight import UnreadableImageError, look


def _resized(picture: bytes, side: int) -> bytes:
    out = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).resize((side, side), Image.Resampling.LANCZOS)
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _widest_gap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_equal_seeds_give_equal_scenes_and_equal_bytes():
    scenes = make_scenes(5, seed=1)
    assert scenes == make_scenes(5, seed=1)
    assert scenes != make_scenes(5, seed=2)
    assert [render(scene) for scene in scenes] == [render(scene) for scene in make_scenes(5, seed=1)]


def test_no_two_scenes_of_a_set_show_the_same():
    scenes = make_scenes(4_000, seed=3)  # so many that chance alone would repeat some
    assert len({scene.facts for scene in scenes}) == len({scene.name for scene in scenes}) == 4_000
    assert len({render(scene) for scene in scenes[:20]}) == 20


def test_scenes_use_every_shape_colour_position_and_background():
    scenes = make_scenes(200, seed=4)
    facts = [fact for scene in scenes for fact in scene.facts]
    assert {fact.shape for fact in facts} == set(Shape)
    assert {fact.colour for fact in facts} == set(Colour)
    assert {fact.position for fact in facts} == set(Position)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.objects) for scene in scenes} == {2, 3, 4}


def test_boxes_hold_exactly_the_drawn_pixels():
    for scene in make_scenes(12, seed=5):
        pixels = np.asarray(Image.open(io.BytesIO(render(scene))), dtype=np.float32)
        drawn = np.linalg.norm(pixels - np.array(BACKGROUNDS[scene.background]), axis=2) > 40
        for thing in scene.objects:
            x, y, width, height = thing.box
            rows, columns = np.nonzero(drawn[y - 4 : y + height + 4, x - 4 : x + width + 4])
            seen = (columns.min() - 4, rows.min() - 4, columns.max() - 3, rows.max() - 3)
            assert (
                _widest_gap(seen, (0, 0, width, height)) <= 3
            )  # the tips of a star are thinner than a pixel
            drawn[y - 4 : y + height + 4, x - 4 : x + width + 4] = False
        assert not drawn.any()


def test_relations_follow_the_grid():
    for scene in make_scenes(30, seed=6):
        centres = [thing.fact.position.cell for thing in scene.objects]
        for source, kind, target in scene.relations:
            axis = {"above": 0, "left of": 1}[kind]
            assert centres[source][axis] < centres[target][axis]
        apart = sum(one[axis] < other[axis] for one in centres for other in centres for axis in (0, 1))
        assert len(scene.relations) == apart


def test_truth_is_json_with_boxes_inside_the_picture():
    for scene in make_scenes(10, seed=7):
        truth = json.loads(json.dumps(scene.truth()))
        assert truth["name"] == scene.name
        assert len(truth["objects"]) == len(scene.objects)
        for thing in truth["objects"]:
            x, y, width, height = thing["box"]
            assert 0 <= x < x + width <= SIDE
            assert 0 <= y < y + height <= SIDE


@pytest.mark.parametrize("scene", make_scenes(12, seed=8), ids=lambda scene: scene.name)
def test_a_scene_is_read_rightly_at_every_size_and_after_jpeg(scene: Scene):
    picture = render(scene)
    for side, seen in [(SIDE, look(picture))] + [(s, look(_resized(picture, s))) for s in (1024, 512, 256)]:
        assert sorted(thing.fact for thing in seen) == sorted(scene.facts)
        boxes = {thing.fact: thing.box for thing in scene.objects}
        for thing in seen:
            scaled = tuple(edge * SIDE / side for edge in thing.box)
            assert _widest_gap(scaled, boxes[thing.fact]) <= 6


def test_boxes_are_in_the_pixels_of_a_stretched_picture_too():
    scene = make_scenes(1, seed=10)[0]
    out = io.BytesIO()
    Image.open(io.BytesIO(render(scene))).resize((SIDE * 2, SIDE)).save(out, "PNG")
    boxes = {thing.fact: thing.box for thing in scene.objects}
    for thing in look(out.getvalue()):
        x, y, width, height = thing.box
        assert _widest_gap((x / 2, y, width / 2, height), boxes[thing.fact]) <= 6


def test_a_picture_without_objects_shows_nothing():
    out = io.BytesIO()
    Image.new("RGB", (200, 100), "beige").save(out, "PNG")
    assert look(out.getvalue()) == ()


def test_a_noisy_picture_that_is_no_scene_is_looked_at_all_the_same():
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (90, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    assert len(look(out.getvalue())) <= sight.OBJECTS_AT_MOST


def test_an_image_bomb_is_refused_before_it_is_decoded():
    out = io.BytesIO()
    Image.new("1", (5000, 5000)).save(out, "PNG")
    with pytest.raises(UnreadableImageError, match="pixels"):
        look(out.getvalue())


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"]),
)
def test_hostile_bytes_are_unreadable_and_never_crash(tail: bytes, head: bytes):
    with pytest.raises(UnreadableImageError):
        look(head + tail)


PICTURE = render(make_scenes(1, seed=9)[0])


@given(st.integers(0, len(PICTURE) - 1), st.binary(min_size=1, max_size=30))
def test_a_damaged_picture_is_seen_or_unreadable_and_never_crashes(place: int, damage: bytes):
    damaged = PICTURE[:place] + damage + PICTURE[place + len(damage) :]
    try:
        assert len(look(damaged)) <= sight.OBJECTS_AT_MOST
    except UnreadableImageError as error:
        assert "Send" in str(error)  # noqa: PT017 - a clear message is half of the promise
