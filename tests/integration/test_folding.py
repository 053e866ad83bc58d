"""Folding: evidence and recent credit fade by the time of each judgement, in whatever order."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.credit import HALF_LIVES, WEEK_S
from coordinator.evidence import HOUR_S, MONTH_S
from store import ledger

END = datetime(2026, 6, 1, tzinfo=UTC)
ADD = """
INSERT INTO ledger (campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, credit,
                    created_at, reversed, reversal_of)
VALUES (1, %s, %s, %s, 1, %s, %s, %s, %s, %s, %s)
"""
SUMS = f"""
SELECT host_id, model, agreed, disagreed, failed, unchecked, credit,
       {ledger.faded("month_agreed", "month")}, {ledger.faded("month_disagreed", "month")},
       {ledger.faded("month_failed", "month")}, {ledger.faded("hour_agreed", "hour")},
       {ledger.faded("hour_disagreed", "hour")}
FROM standings CROSS JOIN LATERAL (SELECT {ledger.fading("as_of", "%(end)s", "month", "hour")}) AS f
ORDER BY 1, 2
"""  # noqa: S608 (constants of the store)
TOTALS = f"""
SELECT owner, owner_id, results, credit,
       {ledger.faded("week_credit", "week")}
FROM credit_totals CROSS JOIN LATERAL (SELECT {ledger.fading("as_of", "%(end)s", "week")}) AS f ORDER BY 1, 2
"""  # noqa: S608 (constants of the store)


@dataclass(frozen=True)
class Judged:
    """A ledger entry, `age_s` before the end; `sign` is -1 for one that takes its like back."""

    host: int
    model: str
    judgement: str
    age_s: int
    sign: int = 1

    @property
    def credit(self) -> float:
        return 2.5 * self.sign if self.judgement in {"agreed", "unchecked"} else 0.0


def _with_some_taken_back(entries: list[Judged], taken_back: list[bool]) -> list[Judged]:
    contraries = [replace(e, sign=-1) for e, back in zip(entries, taken_back, strict=False) if back]
    return [*entries, *contraries]


ENTRIES_MADE = st.lists(
    st.builds(
        Judged,
        host=st.sampled_from((1, 2)),
        model=st.sampled_from(("a", "b")),
        judgement=st.sampled_from(ledger.JUDGEMENTS),
        age_s=st.one_of(st.integers(0, 7200), st.integers(0, 200 * 86_400)),
    ),
    max_size=12,
)
ENTRIES = st.builds(_with_some_taken_back, ENTRIES_MADE, st.lists(st.booleans(), max_size=12))


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def _fold(
    connection: psycopg.Connection, entries: list[Judged], limit: int
) -> tuple[list[object], list[object]]:
    """What stands at the end when these are folded in this order, so many at a time."""
    connection.execute("DELETE FROM ledger")
    connection.execute("DELETE FROM standings")
    connection.execute("DELETE FROM credit_totals")
    lives = {"month": HALF_LIVES.month, "hour": HALF_LIVES.hour, "week": HALF_LIVES.week}
    for number, e in enumerate(entries):
        when = END - timedelta(seconds=e.age_s)
        back = (True, number) if e.sign < 0 else (False, None)
        connection.execute(ADD, (number, e.host, e.host, e.model, e.judgement, e.credit, when, *back))
    while connection.execute(ledger.FOLD, {"limit": limit, **lives}).fetchone() != (0,):
        pass
    ends = {"end": END, **lives}
    return connection.execute(SUMS, ends).fetchall(), connection.execute(TOTALS, ends).fetchall()


def _expected(entries: list[Judged]) -> list[list[object]]:
    """The same, by the definition: half as much for each half-life that an entry is old."""

    def faded(chosen: list[Judged], judgement: str, half_life_s: float) -> float:
        return sum(e.sign * 0.5 ** (e.age_s / half_life_s) for e in chosen if e.judgement == judgement)

    rows: list[list[object]] = []
    for host, model in sorted({(e.host, e.model) for e in entries}):
        chosen = [e for e in entries if (e.host, e.model) == (host, model)]
        counts = [sum(e.sign * (e.judgement == judgement) for e in chosen) for judgement in ledger.JUDGEMENTS]
        month = [faded(chosen, judgement, MONTH_S) for judgement in ("agreed", "disagreed", "failed")]
        hour = [faded(chosen, judgement, HOUR_S) for judgement in ("agreed", "disagreed")]
        rows.append([host, model, *counts, sum(e.credit for e in chosen), *month, *hour])
    return rows


@given(entries=ENTRIES, seed=st.integers(0, 1000), limit=st.integers(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_folding_does_not_matter(
    connection: psycopg.Connection, entries: list[Judged], seed: int, limit: int
):
    standings, totals = _fold(connection, entries, limit)
    for row, wanted in zip(standings, _expected(entries), strict=True):
        assert list(row) == pytest.approx(wanted, abs=1e-9)
    shuffled = random.Random(seed).sample(entries, len(entries))
    for before, after in zip((standings, totals), _fold(connection, shuffled, 1000), strict=True):
        assert [pytest.approx(list(row), abs=1e-9) for row in before] == [list(row) for row in after]


@given(entries=ENTRIES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_credit_totals_are_the_ledger_added_up(connection: psycopg.Connection, entries: list[Judged]):
    _, totals = _fold(connection, entries, 3)
    for owner in ("user", "host"):
        found = {row[1]: row[2:] for row in totals if row[0] == owner}
        for host in (1, 2):
            earned = [e for e in entries if e.host == host and e.credit]
            week = sum(e.credit * 0.5 ** (e.age_s / WEEK_S) for e in earned)
            wanted = (sum(e.sign for e in earned), sum(e.credit for e in earned), week)
            assert found.get(host, (0, 0.0, 0.0)) == pytest.approx(wanted, abs=1e-9)


def test_evidence_of_ages_ago_neither_underflows_nor_counts(connection: psycopg.Connection):
    long_ago = 90 * 365 * 86_400
    [row], _ = _fold(connection, [Judged(1, "a", "agreed", 0), Judged(1, "a", "agreed", long_ago)], 1)
    assert row[2:12] == pytest.approx((2, 0, 0, 0, 5.0, 1.0, 0, 0, 1.0, 0), abs=1e-9)
