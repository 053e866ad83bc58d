"""Lists of integers on their way to PostgreSQL, packed in one go."""

import struct
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_INT8, _INT8_ARRAY = 20, 1016
_HEAD = struct.Struct(">iiiii")


class Integers(list[int]):
    """A list of integers without None; as a binary parameter it takes a third of a plain list's time."""


class _Dumper(Dumper):
    format = Format.BINARY
    oid = _INT8_ARRAY

    def dump(self, obj: Integers) -> bytes:
        """PostgreSQL's binary form of a bigint[]: its head, then each element behind its length."""
        count = len(obj)
        if not count:
            return struct.pack(">iii", 0, 0, _INT8)
        head = _HEAD.pack(1, 0, _INT8, count, 1)
        return head + struct.pack(">" + "iq" * count, *chain.from_iterable(zip(repeat(8), obj)))


def key_columns(keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Units by (campaign id, unit id), as the parameters `campaigns` and `units`."""
    return {"campaigns": Integers(key[0] for key in keys), "units": Integers(key[1] for key in keys)}


psycopg.adapters.register_dumper(Integers, _Dumper)
