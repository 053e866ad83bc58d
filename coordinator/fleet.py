"""What operators do with hosts: look, park, release, revoke."""

from datetime import datetime, timedelta
from enum import StrEnum

from coordinator import throttle
from coordinator.errors import OperatorError
from store import hosts, users
from store.database import Database, Transaction
from store.hosts import HostRow, ListedHost

MAX_PARKING = timedelta(days=365)


class HostState(StrEnum):
    """How an operator sees a host."""

    ACTIVE = "active"
    THROTTLED = "throttled"
    PARKED = "parked"
    REVOKED = "revoked"


def state_of(host: ListedHost, cap: int, now: datetime) -> HostState:
    """What a host may do now."""
    if host.state == "revoked":
        return HostState.REVOKED
    if host.parked_until is not None and now < host.parked_until:
        return HostState.PARKED
    return HostState.THROTTLED if host.allowed is not None and host.allowed < cap else HostState.ACTIVE


async def listed(db: Database, user: str | None = None) -> list[ListedHost]:
    """All hosts, or one user's. Raises OperatorError("user_unknown")."""

    async def body(tx: Transaction) -> list[ListedHost]:
        if user is not None and await users.user_id(tx, user) is None:
            raise OperatorError("user_unknown", f"There is no user '{user}'.")
        return await hosts.listed(tx, user, None)

    return await db.transaction("hosts", body)


async def one(db: Database, host_id: int) -> ListedHost:
    """A host. Raises OperatorError("host_unknown")."""

    async def body(tx: Transaction) -> ListedHost:
        await _need(tx, host_id)
        (found,) = await hosts.listed(tx, None, host_id)
        return found

    return await db.transaction("host", body)


async def park(db: Database, host_id: int, length: timedelta, reason: str, now: datetime) -> None:
    """Gives a host no work for a while, and tells its owner why; what it holds may still come back.

    Raises OperatorError: host_unknown, host_revoked, parking_invalid.
    """
    if not timedelta(0) < length <= MAX_PARKING or not reason.isprintable() or len(reason) > 200:
        raise OperatorError(
            "parking_invalid",
            "A host is parked for up to a year, for a reason of up to 200 characters on one line.",
        )

    async def body(tx: Transaction) -> None:
        if (await _need(tx, host_id)).state == "revoked":
            raise OperatorError("host_revoked", f"Host {host_id} is revoked: it gets no work in any case.")
        await throttle.park(tx, host_id, length, reason or "an operator said so", now)

    await db.transaction("park host", body)


async def release(db: Database, host_id: int, now: datetime) -> None:
    """Ends a parking. Raises OperatorError: host_unknown, host_not_parked."""

    async def body(tx: Transaction) -> None:
        await _need(tx, host_id)
        if not await throttle.release(tx, host_id, now):
            raise OperatorError("host_not_parked", f"Host {host_id} is not parked.")

    await db.transaction("release host", body)


async def revoke(db: Database, host_id: int) -> None:
    """Ends a host for good: its sessions end within a second, its leases go back in a few.

    Raises OperatorError: host_unknown, host_revoked.
    """

    async def body(tx: Transaction) -> None:
        await _need(tx, host_id)
        if not await hosts.revoke(tx, host_id):
            raise OperatorError("host_revoked", f"Host {host_id} is revoked already.")

    await db.transaction("revoke host", body)


async def _need(tx: Transaction, host_id: int) -> HostRow:
    host = await hosts.host_by_id(tx, host_id)
    if host is None:
        raise OperatorError("host_unknown", f"There is no host {host_id}. See: chorus admin host list")
    return host
