"""How many units a host may have in hand, from how its last work went. Pure: no clock, no database.

A host works under a cap until something goes wrong. What it failed, what was invalid, what others contradict
and what it let lapse takes one from its quota each, work that is accepted gives one back, and accepted work
alone doubles it (BOINC's rule). A host that keeps failing with a quota of one is parked for a while, longer
each time, until it has earned the whole cap again.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

PARK_AT = 20
"""Strikes that park a host: failures with a quota of one, less PARDON for each accepted result."""
PARDON = 4
FIRST_PARKING = timedelta(hours=1)
LONGEST_PARKING = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Quota:
    """Units that a host may have in hand, at least 1, and how near it is to being parked."""

    allowed: int
    strikes: int = 0
    parkings: int = 0
    parked_until: datetime | None = None

    def is_parked(self, now: datetime) -> bool:
        """Whether it gets no work now."""
        return self.parked_until is not None and now < self.parked_until

    def is_full(self, cap: int, now: datetime) -> bool:
        """Whether nothing is held against the host any more."""
        return self.allowed >= cap and not self.strikes and not self.is_parked(now)


def after(quota: Quota, good: int, bad: int, *, cap: int, now: datetime) -> Quota:
    """The quota after so many accepted and failed results; a parked host's failures are not counted."""
    if quota.is_parked(now):
        bad = 0
    strikes = max(0, quota.strikes - PARDON * good)
    if not bad:
        grown = max(2 * quota.allowed, quota.allowed + good) if good else quota.allowed
        return replace(quota, allowed=min(cap, grown), strikes=strikes)
    left = quota.allowed + good - bad
    strikes += max(0, 1 - left)
    if strikes >= PARK_AT:
        return parked(quota, now, min(LONGEST_PARKING, FIRST_PARKING * 2 ** min(quota.parkings, 10)))
    return replace(quota, allowed=min(cap, max(1, left)), strikes=strikes)


def parked(quota: Quota, now: datetime, length: timedelta) -> Quota:
    """The host gets no work for so long, and then one unit at a time; half the strikes bring it back here."""
    return Quota(1, PARK_AT // 2, quota.parkings + 1, now + length)


def released(quota: Quota) -> Quota:
    """The host gets work again, one unit at a time at first."""
    return replace(quota, allowed=1, strikes=0, parked_until=None)
