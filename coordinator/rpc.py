"""The wire's service: protobuf in, commands, protobuf out, and nothing else."""

import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, assert_never

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from coordinator import metrics
from coordinator.campaigns import Campaigns
from coordinator.clock import now
from coordinator.errors import CallRefused
from coordinator.identity import Caller, Identity
from coordinator.images import ImageUrls
from coordinator.keys import Keys
from coordinator.leasing import Leased
from coordinator.lifecycle import Receipt
from coordinator.logs import IDS_TOLD
from coordinator.long_poll import LongPoll
from coordinator.messages import Messages
from coordinator.pace import Paces
from coordinator.returns import Acknowledged, Returned, ReturnedAnswer, ReturnedFailure, Returns, SignedBatch
from coordinator.scheduler import Ability, Scheduler
from coordinator.settlement import Key
from coordinator.standing import standing
from coordinator.throttle import Throttle
from coordinator.work import Work
from protos import signing, work_pb2, work_pb2_grpc
from protos.tier import Tier
from store.database import Database

MAX_RESULTS = 256
MAX_WANT = 256
MAX_REFS = 4096
MAX_PERSPECTIVES = 64
MAX_NAME = 65  # of a perspective, and one more: what is longer names none
MAX_WAIT_S = 120.0
MAX_WORDS = 300

Context = grpc.aio.ServicerContext
Request = TypeVar("Request")
Response = TypeVar("Response")

log = structlog.get_logger("rpc")

_STATUS = {
    work_pb2.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    work_pb2.INVITE_INVALID: grpc.StatusCode.PERMISSION_DENIED,
    work_pb2.CHALLENGE_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    work_pb2.SIGNATURE_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    work_pb2.SESSION_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    work_pb2.HOST_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    work_pb2.HOST_REVOKED: grpc.StatusCode.PERMISSION_DENIED,
    work_pb2.HOST_COPIED: grpc.StatusCode.PERMISSION_DENIED,
    work_pb2.CLIENT_TOO_OLD: grpc.StatusCode.FAILED_PRECONDITION,
    work_pb2.BATCH_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    work_pb2.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}

# These come of sessions that end in their time; the others are somebody's mistake.
_ROUTINE = {work_pb2.SESSION_INVALID, work_pb2.CHALLENGE_INVALID}

Method = Callable[["CoordinatorService", Request, Context[Any, Any]], Awaitable[Response]]


def answered(method: Method[Request, Response]) -> Method[Request, Response]:
    """Turns refusals into a status with the stable code, and faults of ours into UNAVAILABLE."""

    @functools.wraps(method)
    async def call(service: "CoordinatorService", request: Request, context: Context[Any, Any]) -> Response:
        name, began = method.__name__, time.perf_counter()
        try:
            if request is None:
                raise CallRefused(work_pb2.INVALID_REQUEST, "The request is not a message of this call.")
            return await method(service, request, context)
        except CallRefused as refused:
            code, words = refused.code, str(refused)
            tell = log.debug if code in _ROUTINE else log.info
            tell("call_refused", call=name, code=work_pb2.ErrorCode.Name(code), reason=words)
        except Exception:  # a fault of ours must reach the log, and the client as "try again"
            log.exception("call_failed", call=name)
            code, words = work_pb2.UNAVAILABLE, "The coordinator has a fault. Nothing was lost; try again."
        finally:
            metrics.CALLS.labels(_kind_of_call(name, request)).observe(time.perf_counter() - began)
        metrics.CALLS_REFUSED.labels(name, work_pb2.ErrorCode.Name(code)).inc()
        metadata = (("chorus-error", work_pb2.ErrorCode.Name(code)),)
        await context.abort(_STATUS[code], words, metadata)
        raise AssertionError("abort has raised")

    return call


@dataclass(frozen=True, slots=True)
class CoordinatorService(work_pb2_grpc.CoordinatorServicer):
    """One method per RPC."""

    db: Database
    identity: Identity
    campaigns: Campaigns
    scheduler: Scheduler
    long_poll: LongPoll
    work: Work
    returns: Returns
    messages: Messages
    throttle: Throttle
    paces: Paces
    keys: Keys
    urls: ImageUrls

    @answered
    async def Challenge(  # noqa: N802 - the generated base class names it
        self, _request: work_pb2.ChallengeRequest, _context: Context[Any, Any]
    ) -> work_pb2.ChallengeResponse:
        """A nonce to sign."""
        return work_pb2.ChallengeResponse(challenge=self.identity.challenge())

    @answered
    async def Enrol(  # noqa: N802 - as above
        self, request: work_pb2.EnrolRequest, _context: Context[Any, Any]
    ) -> work_pb2.EnrolResponse:
        """Makes a host of an invite and a key."""
        return await self.identity.enrol(request)

    @answered
    async def OpenSession(  # noqa: N802 - as above
        self, request: work_pb2.OpenSessionRequest, _context: Context[Any, Any]
    ) -> work_pb2.OpenSessionResponse:
        """A session token for a proven key."""
        return await self.identity.open_session(request)

    @answered
    async def Resume(  # noqa: N802 - as above
        self, request: work_pb2.ResumeRequest, context: Context[Any, Any]
    ) -> work_pb2.ResumeResponse:
        """Sends forgotten leases again."""
        caller, keys = self._caller(context), _keys(request.held)
        resumed = await self.work.resume(caller, keys)
        return work_pb2.ResumeResponse(
            leases=[self._lease_batch(caller, leased) for leased in resumed.leased],
            stop=[ref for ref, key in zip(request.held, keys, strict=True) if key in resumed.stop],
            more=resumed.more,
        )

    @answered
    async def Work(  # noqa: N802 - as above
        self, request: work_pb2.WorkRequest, context: Context[Any, Any]
    ) -> work_pb2.WorkResponse:
        """Commits results, then leases."""
        caller = self._caller(context)
        response = work_pb2.WorkResponse()
        if request.results:
            acknowledged = await self._return(caller, request)
            response.acks.extend(map(_ack, request.results, acknowledged))
            _tell(acknowledged, response.acks)
        if request.want:
            await self._lease(caller, request, response)
            if response.idle_reason:
                metrics.IDLE.labels(response.idle_reason).inc()
        if request.HasField("last_message"):
            response.messages.extend(self._messages(caller, request.last_message))
        return response

    @answered
    async def Renew(  # noqa: N802 - as above
        self, request: work_pb2.RenewRequest, context: Context[Any, Any]
    ) -> work_pb2.RenewResponse:
        """Extends leases and says which to stop."""
        keys = _keys(request.units)
        renewed = await self.work.renew(self._caller(context), keys)
        response = work_pb2.RenewResponse(lease_s=renewed.lease_s)
        for ref, key in zip(request.units, keys, strict=True):
            (response.renewed if key in renewed.keys else response.stop).append(ref)
        return response

    @answered
    async def Release(  # noqa: N802 - as above
        self, request: work_pb2.ReleaseRequest, context: Context[Any, Any]
    ) -> work_pb2.ReleaseResponse:
        """Takes leases back."""
        caller, keys = self._caller(context), _keys(request.units)
        released = await self.work.release(caller, keys, _words(request.reason))
        self.paces.released(caller.host_id, released)
        return work_pb2.ReleaseResponse(released=released)

    @answered
    async def Standing(  # noqa: N802 - as above
        self, _request: work_pb2.StandingRequest, context: Context[Any, Any]
    ) -> work_pb2.StandingResponse:
        """The caller's standing."""
        caller = self._caller(context)
        found = await standing(self.db, caller.host_id, now())
        return work_pb2.StandingResponse(
            user_name=found.user_name,
            host_name=found.host_name,
            agreed=found.agreed,
            disagreed=found.disagreed,
            waiting=found.waiting,
            failed=found.failed,
            unchecked=found.unchecked,
            credit=found.credit,
            tasks=[work_pb2.TaskStanding(**asdict(task)) for task in found.tasks],
            team=found.team,
            user_credit=found.user_credit,
            user_recent=found.user_recent,
            messages=self._messages(caller, 0),
        )

    def _messages(self, caller: Caller, last: int) -> list[work_pb2.Message]:
        found = self.messages.after(last, user_id=caller.user_id, host_id=caller.host_id)
        return [work_pb2.Message(id=one.id, code=one.code, text=one.text) for one in found]

    def _caller(self, context: Context[Any, Any]) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        token = metadata.get("chorus-session-bin")
        caller = self.identity.caller(token if isinstance(token, bytes) else None)
        structlog.contextvars.bind_contextvars(host_id=caller.host_id)
        return caller

    async def _return(self, caller: Caller, request: work_pb2.WorkRequest) -> list[Acknowledged]:
        if len(request.results) > MAX_RESULTS:
            raise CallRefused(work_pb2.BATCH_TOO_LARGE, f"A call returns {MAX_RESULTS} results at most.")
        public_key = await self.identity.public_key(caller.host_id)
        hashes = [signing.result(result) for result in request.results]
        message = signing.result_batch(caller.host_id, hashes)
        if not signing.verify(public_key, request.signature, message):
            raise CallRefused(work_pb2.SIGNATURE_INVALID, "The results are not signed by this host's key.")
        returned = [_returned(result, digest) for result, digest in zip(request.results, hashes, strict=True)]
        return await self.returns(caller, returned, SignedBatch(b"".join(hashes), request.signature))

    async def _lease(
        self, caller: Caller, request: work_pb2.WorkRequest, response: work_pb2.WorkResponse
    ) -> None:
        try:
            tier = Tier.parse(request.tier)
        except ValueError as error:
            raise CallRefused(work_pb2.INVALID_REQUEST, str(error)) from error
        returned = len(response.acks)
        allowed = self.throttle.allow(caller.host_id, min(request.want, MAX_WANT), returned)
        if allowed.because is not None:
            response.idle_reason = allowed.because.value
            response.retry_ms = allowed.retry_ms
            return
        want, leased = allowed.want, Leased([], 0)
        if len(request.perspectives) > MAX_PERSPECTIVES:
            raise CallRefused(
                work_pb2.INVALID_REQUEST, f"A call names {MAX_PERSPECTIVES} perspectives at most."
            )
        targets = self.campaigns.targets_of(caller.host_id, caller.user_id)
        ability = Ability(
            tier, frozenset(name[:MAX_NAME] for name in request.perspectives), _words(request.model), targets
        )
        wait_s = 0.0 if response.acks else min(request.wait_ms / 1000, MAX_WAIT_S)
        try:
            leased = await self.long_poll(caller, ability, want, wait_s)
        finally:
            self.throttle.unused(caller.host_id, allowed, want - len(leased.units))
        if leased.units:
            response.lease.CopyFrom(self._lease_batch(caller, leased))
        else:
            response.idle_reason = leased.idle.code
            response.retry_ms = self.scheduler.retry_ms(leased.idle)

    def _lease_batch(self, caller: Caller, leased: Leased) -> work_pb2.LeaseBatch:
        campaign = self.campaigns.need(leased.units[0].campaign_id)
        tasks = campaign.tasks
        wire = [
            work_pb2.Unit(
                campaign_id=unit.campaign_id,
                unit_id=unit.id,
                lane=unit.lane,
                kind=unit.kind,
                task_digest=tasks[unit.perspective_id].row.digest,
                image_hash=unit.image_hash,
                image_url=self.urls.url(unit.image_hash),
                params=unit.params,
                signature=unit.signature,
            )
            for unit in leased.units
        ]
        used = {unit.perspective_id for unit in leased.units}
        rows = [tasks[perspective_id].row for perspective_id in sorted(used)]
        for perspective_id, count in Counter(unit.perspective_id for unit in leased.units).items():
            metrics.LEASED.labels(campaign.name, tasks[perspective_id].row.name).inc(count)
        message = signing.lease_batch(caller.host_id, leased.lease_s, wire)
        return work_pb2.LeaseBatch(
            tasks=[work_pb2.Task(digest=row.digest, body=row.body) for row in rows],
            units=wire,
            lease_s=leased.lease_s,
            signature=self.keys.signing.sign(message),
        )


def register(service: CoordinatorService, server: grpc.aio.Server) -> None:
    """Lets a server answer this service's calls.

    As generated code does, but bytes that are no message come as None: they get a code like any other fault.
    """
    described = work_pb2.DESCRIPTOR.services_by_name["Coordinator"]
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(service, method.name),
            request_deserializer=functools.partial(_read, GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in described.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(described.full_name, handlers),))


def _read(kind: type[Message], sent: bytes) -> Message | None:
    try:
        return kind.FromString(sent)
    except DecodeError:
        return None


def _kind_of_call(name: str, request: object) -> str:
    """A call that may be held until there is work is told from those that are answered at once."""
    waits = isinstance(request, work_pb2.WorkRequest) and request.wait_ms and not request.results
    return f"{name} waiting" if waits else name


def _returned(result: work_pb2.Result, digest: bytes) -> Returned:
    key = (result.campaign_id, result.unit_id)
    match result.WhichOneof("outcome"):
        case "answer":
            answer = result.answer
            return ReturnedAnswer(
                key=_in_range(key),
                hash=digest,
                body=answer.body,
                model=_words(answer.model),
                endpoint=_words(answer.endpoint),
                seed=answer.seed,
                elapsed_ms=min(answer.elapsed_ms, 2**31 - 1),
            )
        case "failure":
            return ReturnedFailure(_in_range(key), _words(result.failure))
        case _:
            raise CallRefused(work_pb2.INVALID_REQUEST, "A result has neither an answer nor a failure.")


def _ack(result: work_pb2.Result, acknowledged: Acknowledged) -> work_pb2.Ack:
    reason = acknowledged.reason
    match acknowledged.receipt:
        case Receipt.COUNTED:
            status = work_pb2.STORED
        case Receipt.LATE:
            status = work_pb2.LATE
        case Receipt.DUPLICATE:
            status = work_pb2.DUPLICATE
        case Receipt.FAILURE:
            status = work_pb2.FAILURE_NOTED
        case Receipt.UNKNOWN_UNIT | Receipt.NOT_LEASED | Receipt.ALREADY_ANSWERED | Receipt.INVALID:
            status = work_pb2.REFUSED
            reason = f"{acknowledged.receipt.value}: {acknowledged.reason}"
        case _:
            assert_never(acknowledged.receipt)
    return work_pb2.Ack(campaign_id=result.campaign_id, unit_id=result.unit_id, status=status, reason=reason)


def _tell(acknowledged: Sequence[Acknowledged], acks: Sequence[work_pb2.Ack]) -> None:
    """Counts what became of results, and tells the log of those that were refused."""
    for receipt, count in Counter(one.receipt for one in acknowledged).items():
        metrics.RESULTS.labels(receipt.value).inc(count)
    refused = [ack for ack in acks if ack.status == work_pb2.REFUSED]
    if refused:
        log.info(
            "results_refused",
            reasons=dict(Counter(ack.reason for ack in refused)),
            units=[f"{ack.campaign_id}/{ack.unit_id}" for ack in refused[:IDS_TOLD]],
        )


def _keys(refs: Sequence[work_pb2.UnitRef]) -> list[Key]:
    if len(refs) > MAX_REFS:
        raise CallRefused(work_pb2.BATCH_TOO_LARGE, f"A call names {MAX_REFS} units at most.")
    return [_in_range((ref.campaign_id, ref.unit_id)) for ref in refs]


def _in_range(key: Key) -> Key:
    """Ids beyond the database's integers name nothing; they become an id that is never given."""
    return key if key[0] < 2**31 and key[1] < 2**63 else (0, 0)


def _words(text: str) -> str:
    """Somebody else's words, fit to be stored and shown."""
    text = text[:MAX_WORDS]
    if text.isprintable():
        return text.strip()
    return "".join(c if c.isprintable() else " " for c in text).strip()
