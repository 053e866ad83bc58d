"""An invite goes through mails and chats and comes back whole, or is refused in words."""

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protos.invite import PREFIX, Invite, InviteError

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
INVITES = st.builds(
    Invite,
    addresses=st.lists(TEXT, min_size=1, max_size=4).map(tuple),
    token=TEXT,
    ca_der=st.none() | st.binary(max_size=100),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _packed(content: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _written(fields: object) -> str:
    return _packed(json.dumps(fields).encode())


@given(INVITES)
def test_an_invite_reads_back_as_it_was(invite: Invite):
    assert Invite.decode(invite.encode()) == invite


@given(INVITES, st.data())
def test_line_breaks_that_a_mail_puts_in_do_no_harm(invite: Invite, data: st.DataObject):
    line = invite.encode()
    place = data.draw(st.integers(0, len(line)))
    assert Invite.decode(f" {line[:place]}\r\n  {line[place:]}\n") == invite


def test_an_invite_is_one_line_that_a_shell_leaves_alone():
    line = Invite(("a:1", "[::1]:2"), "token", b"\xff" * 500).encode()
    assert line.startswith(PREFIX)
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in line)


@given(st.text())
@example("")
@example(PREFIX)
@example(PREFIX + "\ud800")
@example(PREFIX + "é")
@example(PREFIX + "=" * 50)
def test_any_other_text_is_refused_in_words(text: str):
    for hostile in (text, PREFIX + text):
        with pytest.raises(InviteError, match="Copy the whole line"):
            Invite.decode(hostile)


@given(st.binary(max_size=100))
def test_any_packed_bytes_are_read_or_refused(content: bytes):
    try:
        Invite.decode(_packed(content))
    except InviteError:
        return
    pytest.fail("random bytes are no invite")


@given(st.fixed_dictionaries({}, optional={"a": JSON, "t": JSON, "c": JSON}) | JSON)
def test_any_json_inside_is_read_or_refused(fields: object):
    try:
        invite = Invite.decode(_written(fields))
    except InviteError:
        return
    assert invite.addresses
    assert all(isinstance(address, str) and address for address in invite.addresses)
    assert invite.token.encode()
    assert Invite.decode(invite.encode()) == invite


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":["h:1"],"t":' + b"9" * 5000 + b"}",
        b'{"a":["h:1"],"t":"\\ud800"}',
        b'{"a":["h:\\ud800"],"t":"t"}',
        b'{"a":"h:1","t":"t"}',
        b'{"a":[""],"t":"t"}',
        b'{"a":[],"t":"t"}',
        b'{"a":{"h:1":0},"t":"t"}',
        b'{"a":["h:1"],"t":""}',
        b'{"a":["h:1"],"t":"t","c":7}',
        b'{"a":["h:1"],"t":"t","c":"!!"}',
        b"\xff\xfe",
    ],
    ids=range(13),
)
def test_hostile_content_is_refused_in_words(content: bytes):
    with pytest.raises(InviteError, match="damaged"):
        Invite.decode(_packed(content))
