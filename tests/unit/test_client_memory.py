"""A home counts its sessions so that of two copies one falls behind, whatever is lost on the way."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volunteer_client import durable
from volunteer_client.memory import Memory


def test_a_session_is_on_disk_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = []
    monkeypatch.setattr(durable, "write", lambda path, data: written.append((path, data)))
    sequence, mark = Memory(tmp_path / "m").next_session()
    assert (sequence, len(mark)) == (1, 16)
    [(path, data)] = written
    assert path == tmp_path / "m"
    assert mark.hex().encode() in data


def test_a_session_that_was_not_opened_is_asked_for_again_unchanged(tmp_path: Path):
    first = Memory(tmp_path / "m").next_session()
    again = Memory(tmp_path / "m")
    assert [again.next_session() for _ in range(3)] == [first] * 3
    again.opened()
    following = Memory(tmp_path / "m").next_session()
    assert following[0] == first[0] + 1
    assert following[1] != first[1]


def test_a_disk_that_fails_lets_no_session_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    memory = Memory(tmp_path / "m")

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                memory.next_session()
    asked = memory.next_session()
    assert Memory(tmp_path / "m").next_session() == asked


def test_a_shown_message_is_remembered_over_sessions_and_never_goes_back(tmp_path: Path):
    memory = Memory(tmp_path / "m")
    assert memory.message == 0
    for message in (7, 3):
        memory.showed(message)
    memory.next_session()
    memory.opened()
    assert Memory(tmp_path / "m").message == 7


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"mark": "x", "sequence": 3, "is_open": true}', '{"mark": 3}', "\0"]
)
def test_a_damaged_file_remembers_nothing(tmp_path: Path, text: str):
    (tmp_path / "m").write_text(text)
    assert Memory(tmp_path / "m").next_session()[0] == 1


class Server:
    """The rule of the coordinator."""

    def __init__(self) -> None:
        self.last: tuple[int, bytes] = (0, b"")

    def opens(self, asked: tuple[int, bytes]) -> bool:
        is_fine = asked[0] > self.last[0] or asked == self.last
        self.last = asked if is_fine else self.last
        return is_fine


@settings(deadline=None, max_examples=40)  # each step waits for the disk
@given(
    before=st.lists(st.booleans()),
    after=st.lists(st.tuples(st.sampled_from((0, 1)), st.booleans(), st.booleans()), max_size=30),
)
def test_of_two_copies_the_one_that_falls_behind_never_opens_another_session(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[bool],
    after: list[tuple[int, bool, bool]],
):
    """Calls are heard by the server or not, answers by the client or not, and any client starts again."""
    folder = tmp_path_factory.mktemp("copies")
    server, files = Server(), [folder / "original", folder / "copy"]
    for is_heard in before:
        memory = Memory(files[0])
        assert server.opens(memory.next_session())
        if is_heard:
            memory.opened()
    if files[0].exists():
        files[1].write_bytes(files[0].read_bytes())
    behind: set[int] = set()
    opened: dict[int, int] = {0: 0, 1: 0}
    for who, is_heard, starts_again in after:
        memory = Memory(files[who])
        asked = memory.next_session()
        is_open = server.opens(asked)
        assert not (is_open and who in behind)
        if not is_open:
            behind.add(who)
        elif is_heard:
            memory.opened()
            opened[who] += 1
        if starts_again:
            assert Memory(files[who]).next_session()[0] >= asked[0]
    assert len(behind) <= 1
