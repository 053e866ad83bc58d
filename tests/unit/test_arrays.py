"""Integers reach PostgreSQL as the numbers they are."""

from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from store.arrays import Integers

INT8_ARRAY = 1016


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_a_list_comes_back_as_it_went(numbers: list[int]):
    transformer = Transformer()
    dumper = transformer.get_dumper(Integers(numbers), PyFormat.BINARY)
    dumped = dumper.dump(Integers(numbers))
    assert (dumper.oid, dumper.format) == (INT8_ARRAY, Format.BINARY)
    assert dumped is not None
    assert transformer.get_loader(INT8_ARRAY, Format.BINARY).load(bytes(dumped)) == numbers
