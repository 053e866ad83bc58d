"""A second look under the lock: who gets a spare lane is decided by what is so then."""

from datetime import UTC, datetime, timedelta

import pytest

from coordinator.tail import _spare_lanes
from store.leases import Lease
from store.results import VoiceRow
from store.situation import SituationRows
from store.units import LockedUnit

BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO, JUST_NOW = BEFORE - timedelta(hours=1), BEFORE + timedelta(seconds=1)
MOST = 3


def _lease(lane: int, since: datetime) -> Lease:
    return Lease(1, 7, lane, 5 + lane, 5 + lane, since, since + timedelta(hours=2), alone=False)


def _lanes(
    *live: Lease, state: str = "open", voices: tuple[int, ...] = (), waiting: bool = False, extra: int = 0
) -> list[int]:
    unit = LockedUnit(1, 7, 1, 9, 0, 0, 3, state, None, extra)
    fields = dict.fromkeys(VoiceRow._fields)
    said = [VoiceRow(**{**fields, "campaign_id": 1, "unit_id": 7, "lane": lane}) for lane in voices]
    rows = SituationRows([unit], list(live), [], said)
    return [one.lane for one in _spare_lanes(rows, {(1, 7)} if waiting else set(), BEFORE, MOST)]


def test_a_unit_that_waits_for_one_old_lease_gets_the_lane_after_all_that_were():
    assert _lanes(_lease(1, LONG_AGO), voices=(0,)) == [2]
    assert _lanes(_lease(0, LONG_AGO), voices=(1, 2)) == [3]
    assert _lanes(_lease(0, LONG_AGO)) == [1]
    assert _lanes(_lease(1, LONG_AGO), voices=(MOST,), extra=1) == [MOST + 1]


@pytest.mark.parametrize(
    "lanes",
    [
        _lanes(_lease(1, LONG_AGO), state="accepted"),
        _lanes(_lease(1, LONG_AGO), waiting=True),
        _lanes(_lease(1, JUST_NOW)),
        _lanes(_lease(0, LONG_AGO), _lease(1, LONG_AGO)),
        _lanes(),
        _lanes(_lease(3, LONG_AGO)),
        _lanes(_lease(1, LONG_AGO), voices=(MOST,)),
    ],
)
def test_one_that_ended_waits_elsewhere_or_has_had_its_lanes_gets_none(lanes: list[int]):
    assert lanes == []
