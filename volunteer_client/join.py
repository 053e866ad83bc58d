"""Joining a coordinator: from an invite to an enrolled host."""

from dataclasses import dataclass
from pathlib import Path

from protos.invite import Invite, InviteError
from volunteer_client.api import AwayError, Channels, RejectedError, enrol
from volunteer_client.configure import ConfigureError, Enrolment, Home


@dataclass(frozen=True, slots=True)
class Joined:
    """How a join went. `is_new` is False where the home had joined this coordinator before."""

    enrolment: Enrolment
    is_new: bool
    set_aside: Path | None = None


async def join(home: Home, invite_text: str, *, user: str, name: str, tier: str, force: bool) -> Joined:
    """Makes a key, enrols it, keeps the enrolment. Raises ConfigureError with what to do.

    A home that has joined already is left as it is; `force` moves its key, enrolment and spool aside.
    """
    try:
        invite = Invite.decode(invite_text)
    except InviteError as error:
        raise ConfigureError("invite_damaged", str(error)) from None
    with home.lock():
        aside = None
        if force:
            aside = home.set_aside()
        else:
            present = home.enrolment()
            if present is not None:
                return _joined_before(present, invite, home)
        try:
            enrolment = await _enrol(home, invite, user=user, name=name, tier=tier)
        except (AwayError, RejectedError) as error:
            if aside is not None:
                home.put_back(aside)
            code = "coordinator_unreachable" if error.code == "UNAVAILABLE" else error.code.lower()
            raise ConfigureError(code, str(error)) from None
        home.enrol(enrolment)
        return Joined(enrolment, is_new=True, set_aside=aside)


def _joined_before(present: Enrolment, invite: Invite, home: Home) -> Joined:
    is_same = present.ca_der == invite.ca_der and (
        invite.ca_der is not None or set(present.addresses) & set(invite.addresses)
    )
    if is_same:
        return Joined(present, is_new=False)
    raise ConfigureError(
        "joined_elsewhere",
        f"{home.folder} belongs to another coordinator ({', '.join(present.addresses)}). "
        "Choose another folder with --home, or replace that enrolment with --force.",
    )


async def _enrol(home: Home, invite: Invite, *, user: str, name: str, tier: str) -> Enrolment:
    key = home.key_or_new()
    channels = Channels(invite.addresses, invite.ca_der)
    try:
        response = await enrol(channels, key, invite.token, user=user, name=name, tier=tier)
    finally:
        await channels.close()
    if len(response.coordinator_key) != 32 or not response.host_id:
        raise ConfigureError("coordinator_odd", "The coordinator's answer makes no sense. Update the client.")
    return Enrolment(
        addresses=invite.addresses,
        ca_der=invite.ca_der,
        coordinator_key=response.coordinator_key,
        host_id=response.host_id,
        user_name=response.user_name,
        host_name=name,
        tier=tier,
    )
