"""Who is calling: invites, enrolment by proof of a key, and short-lived sessions."""

import hashlib
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.errors import CallRefused
from coordinator.keys import Keys
from coordinator.messages import tell_owner
from protos import signing, work_pb2
from protos.tier import Tier
from store import hosts
from store.database import Database, Transaction

CHALLENGE_LIFETIME = timedelta(minutes=2)
SESSION_LIFETIME = timedelta(minutes=15)
OLDEST_PROTOCOL = 1
MARK_BYTES = 16
COPIED = (
    "another client asked for work with this host's key from an older state of its folder, a copy or a "
    "restored backup, and was refused. Each machine joins with an invite of its own."
)

_CHALLENGE = struct.Struct(">d16s")
_SESSION = struct.Struct(">QQBd")


@dataclass(frozen=True, slots=True)
class Caller:
    """A host that proved its key, for as long as its session lasts."""

    host_id: int
    user_id: int
    tier_cap: Tier


class Identity:
    """Gives out invites and sessions, and recognises them; holds no state but the revoked hosts."""

    def __init__(self, db: Database, keys: Keys, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._keys = keys
        self._clock = clock
        self._revoked: frozenset[int] = frozenset()
        self._public_keys: dict[int, bytes] = {}

    async def refresh(self) -> None:
        """Learns which hosts are revoked; their sessions end with it."""
        self._revoked = await self._db.transaction("revoked hosts", hosts.revoked)

    async def invite(self, user: str | None, tier_cap: Tier, uses: int, lifetime: timedelta) -> str:
        """Makes a token that lets `uses` hosts in, for one user or a new one each; only its hash is kept."""
        token, now = secrets.token_urlsafe(18), self._clock()

        async def body(tx: Transaction) -> None:
            user_id = None if user is None else await hosts.ensure_user(tx, _name(user), "volunteer", now)
            await hosts.add_invite(tx, _token_hash(token), user_id, tier_cap, uses, now + lifetime, now)

        await self._db.transaction("invite", body)
        return token

    def challenge(self) -> bytes:
        """A nonce to sign within CHALLENGE_LIFETIME; it carries its own proof, so that none is stored."""
        body = _CHALLENGE.pack(self._clock().timestamp(), secrets.token_bytes(16))
        return body + self._keys.mac("challenge", body)

    async def enrol(self, request: work_pb2.EnrolRequest) -> work_pb2.EnrolResponse:
        """Makes a host of an invite and a proven key. A key that is enrolled already gets its host again."""
        self._check_challenge(request.challenge)
        message = signing.enrolment(request.challenge, request.invite_token, request.public_key)
        if not signing.verify(request.public_key, request.signature, message):
            raise CallRefused(work_pb2.SIGNATURE_INVALID, "The enrolment is not signed by the key in it.")
        try:
            tier = Tier.parse(request.tier)
        except ValueError as error:
            raise CallRefused(work_pb2.INVALID_REQUEST, str(error)) from error
        user_name, host_name = _name(request.user_name), _name(request.host_name)

        async def body(tx: Transaction) -> work_pb2.EnrolResponse:
            await hosts.guard_key(tx, request.public_key)
            known = await hosts.host_by_key(tx, request.public_key)
            if known is None:
                await self._admit(tx, request, user_name, host_name, tier)
                known = await hosts.host_by_key(tx, request.public_key)
            if known is None:
                raise AssertionError("a host that was just admitted is there")
            return work_pb2.EnrolResponse(
                host_id=known.id,
                user_name=known.user_name,
                coordinator_key=signing.public_bytes(self._keys.signing),
            )

        return await self._db.transaction("enrol", body)

    async def _admit(
        self, tx: Transaction, request: work_pb2.EnrolRequest, user_name: str, host_name: str, tier: Tier
    ) -> None:
        now = self._clock()
        spent = await hosts.spend_invite(tx, _token_hash(request.invite_token), now)
        if spent is None:
            raise CallRefused(
                work_pb2.INVITE_INVALID, "This invite is unknown, used up or expired. Ask for a new one."
            )
        user_id, tier_cap = spent
        if user_id is None:
            suffix = request.public_key.hex()
            user_id, _ = await hosts.add_user(tx, user_name, suffix, "volunteer", now)
        await hosts.add_host(tx, user_id, host_name, request.public_key, min(tier_cap, tier), now)

    async def open_session(self, request: work_pb2.OpenSessionRequest) -> work_pb2.OpenSessionResponse:
        """A session token for a host that signs the challenge with its key."""
        if request.protocol < OLDEST_PROTOCOL:
            raise CallRefused(
                work_pb2.CLIENT_TOO_OLD, "This client is too old. Update it, then run it again."
            )
        self._check_challenge(request.challenge)
        host = await self._db.transaction("session", lambda tx: hosts.host_by_id(tx, request.host_id))
        if host is None:
            raise CallRefused(work_pb2.HOST_UNKNOWN, "This host is not enrolled here. Join with an invite.")
        if host.state == "revoked":
            raise CallRefused(work_pb2.HOST_REVOKED, "This host was revoked. Ask the operators why.")
        message = signing.session(request.challenge, request.host_id)
        if not signing.verify(host.public_key, request.signature, message):
            raise CallRefused(work_pb2.SIGNATURE_INVALID, "The session is not signed by this host's key.")
        await self._follow(host.id, request.sequence, request.mark)
        expires = self._clock() + SESSION_LIFETIME
        body = _SESSION.pack(host.id, host.user_id, host.tier_cap, expires.timestamp())
        token = body + self._keys.mac("session", body)
        return work_pb2.OpenSessionResponse(
            session_token=token, lifetime_s=int(SESSION_LIFETIME.total_seconds())
        )

    async def _follow(self, host_id: int, sequence: int, mark: bytes) -> None:
        """Refuses a session that another one of the same host has overtaken; clients may not count (0)."""
        if sequence == 0:
            return
        if sequence >= 2**63 or len(mark) != MARK_BYTES:
            raise CallRefused(work_pb2.INVALID_REQUEST, "The session's sequence or mark is malformed.")

        async def body(tx: Transaction) -> bool:
            follows = await hosts.next_session(tx, host_id, sequence, mark)
            if not follows:
                await tell_owner(tx, host_id, "copied", COPIED, self._clock())
            return follows

        if not await self._db.transaction("session", body):
            raise CallRefused(
                work_pb2.HOST_COPIED,
                "This client's folder was copied, or restored from a backup, and the other one has gone on. "
                "Join again with an invite; nothing is lost.",
            )

    def caller(self, token: bytes | None) -> Caller:
        """The host behind a session token. Altered, foreign and expired ones are refused alike."""
        body = self._opened(token or b"", "session", _SESSION)
        if body is not None:
            host_id, user_id, tier_cap, expires = body
            if host_id in self._revoked:
                raise CallRefused(work_pb2.HOST_REVOKED, "This host was revoked. Ask the operators why.")
            if self._clock().timestamp() < expires:
                return Caller(host_id, user_id, Tier(tier_cap))
        raise CallRefused(
            work_pb2.SESSION_INVALID, "The session is missing, altered or over. Open a new one."
        )

    async def public_key(self, host_id: int) -> bytes:
        """The key that this host signs with; read once, since it never changes."""
        if host_id not in self._public_keys:
            host = await self._db.transaction("host key", lambda tx: hosts.host_by_id(tx, host_id))
            if host is None:
                raise CallRefused(
                    work_pb2.HOST_UNKNOWN, "This host is not enrolled here. Join with an invite."
                )
            self._public_keys[host_id] = host.public_key
        return self._public_keys[host_id]

    def _check_challenge(self, challenge: bytes) -> None:
        body = self._opened(challenge, "challenge", _CHALLENGE)
        if body is not None:
            age = self._clock().timestamp() - body[0]
            if age < CHALLENGE_LIFETIME.total_seconds():
                return
        raise CallRefused(work_pb2.CHALLENGE_INVALID, "The challenge is altered or over. Ask for a new one.")

    def _opened(self, sealed: bytes, purpose: str, form: struct.Struct) -> tuple[int, ...] | None:
        body, mac = sealed[: form.size], sealed[form.size :]
        if len(body) == form.size and secrets.compare_digest(mac, self._keys.mac(purpose, body)):
            return form.unpack(body)
        return None


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _name(wish: str) -> str:
    """A name fit to be shown: printable, no spaces at its ends, 1 to 40 characters."""
    printable = "".join(character for character in wish if character.isprintable()).strip()[:40]
    return printable or "volunteer"
