from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    INVALID_REQUEST: _ClassVar[ErrorCode]
    INVITE_INVALID: _ClassVar[ErrorCode]
    CHALLENGE_INVALID: _ClassVar[ErrorCode]
    SIGNATURE_INVALID: _ClassVar[ErrorCode]
    SESSION_INVALID: _ClassVar[ErrorCode]
    HOST_UNKNOWN: _ClassVar[ErrorCode]
    HOST_REVOKED: _ClassVar[ErrorCode]
    CLIENT_TOO_OLD: _ClassVar[ErrorCode]
    BATCH_TOO_LARGE: _ClassVar[ErrorCode]
    UNAVAILABLE: _ClassVar[ErrorCode]
    HOST_COPIED: _ClassVar[ErrorCode]

class ResultStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESULT_STATUS_UNSPECIFIED: _ClassVar[ResultStatus]
    STORED: _ClassVar[ResultStatus]
    DUPLICATE: _ClassVar[ResultStatus]
    LATE: _ClassVar[ResultStatus]
    REFUSED: _ClassVar[ResultStatus]
    FAILURE_NOTED: _ClassVar[ResultStatus]
ERROR_CODE_UNSPECIFIED: ErrorCode
INVALID_REQUEST: ErrorCode
INVITE_INVALID: ErrorCode
CHALLENGE_INVALID: ErrorCode
SIGNATURE_INVALID: ErrorCode
SESSION_INVALID: ErrorCode
HOST_UNKNOWN: ErrorCode
HOST_REVOKED: ErrorCode
CLIENT_TOO_OLD: ErrorCode
BATCH_TOO_LARGE: ErrorCode
UNAVAILABLE: ErrorCode
HOST_COPIED: ErrorCode
RESULT_STATUS_UNSPECIFIED: ResultStatus
STORED: ResultStatus
DUPLICATE: ResultStatus
LATE: ResultStatus
REFUSED: ResultStatus
FAILURE_NOTED: ResultStatus

class ChallengeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChallengeResponse(_message.Message):
    __slots__ = ("challenge",)
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    def __init__(self, challenge: _Optional[bytes] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("invite_token", "public_key", "challenge", "signature", "user_name", "host_name", "tier")
    INVITE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    USER_NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_NAME_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    invite_token: str
    public_key: bytes
    challenge: bytes
    signature: bytes
    user_name: str
    host_name: str
    tier: str
    def __init__(self, invite_token: _Optional[str] = ..., public_key: _Optional[bytes] = ..., challenge: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., user_name: _Optional[str] = ..., host_name: _Optional[str] = ..., tier: _Optional[str] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ("host_id", "user_name", "coordinator_key")
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_NAME_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_KEY_FIELD_NUMBER: _ClassVar[int]
    host_id: int
    user_name: str
    coordinator_key: bytes
    def __init__(self, host_id: _Optional[int] = ..., user_name: _Optional[str] = ..., coordinator_key: _Optional[bytes] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("host_id", "challenge", "signature", "protocol", "client_version", "sequence", "mark")
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    host_id: int
    challenge: bytes
    signature: bytes
    protocol: int
    client_version: str
    sequence: int
    mark: bytes
    def __init__(self, host_id: _Optional[int] = ..., challenge: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., protocol: _Optional[int] = ..., client_version: _Optional[str] = ..., sequence: _Optional[int] = ..., mark: _Optional[bytes] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_token", "lifetime_s")
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    session_token: bytes
    lifetime_s: int
    def __init__(self, session_token: _Optional[bytes] = ..., lifetime_s: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("digest", "body")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    body: bytes
    def __init__(self, digest: _Optional[bytes] = ..., body: _Optional[bytes] = ...) -> None: ...

class Unit(_message.Message):
    __slots__ = ("campaign_id", "unit_id", "lane", "kind", "task_digest", "image_hash", "image_url", "params", "signature")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_ID_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HASH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_URL_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    campaign_id: int
    unit_id: int
    lane: int
    kind: str
    task_digest: bytes
    image_hash: bytes
    image_url: str
    params: str
    signature: bytes
    def __init__(self, campaign_id: _Optional[int] = ..., unit_id: _Optional[int] = ..., lane: _Optional[int] = ..., kind: _Optional[str] = ..., task_digest: _Optional[bytes] = ..., image_hash: _Optional[bytes] = ..., image_url: _Optional[str] = ..., params: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class LeaseBatch(_message.Message):
    __slots__ = ("tasks", "units", "lease_s", "signature")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    units: _containers.RepeatedCompositeFieldContainer[Unit]
    lease_s: int
    signature: bytes
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., units: _Optional[_Iterable[_Union[Unit, _Mapping]]] = ..., lease_s: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class UnitRef(_message.Message):
    __slots__ = ("campaign_id", "unit_id")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_ID_FIELD_NUMBER: _ClassVar[int]
    campaign_id: int
    unit_id: int
    def __init__(self, campaign_id: _Optional[int] = ..., unit_id: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("body", "model", "endpoint", "seed", "elapsed_ms")
    BODY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    model: str
    endpoint: str
    seed: int
    elapsed_ms: int
    def __init__(self, body: _Optional[bytes] = ..., model: _Optional[str] = ..., endpoint: _Optional[str] = ..., seed: _Optional[int] = ..., elapsed_ms: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("campaign_id", "unit_id", "answer", "failure")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    campaign_id: int
    unit_id: int
    answer: Answer
    failure: str
    def __init__(self, campaign_id: _Optional[int] = ..., unit_id: _Optional[int] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., failure: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("campaign_id", "unit_id", "status", "reason")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    campaign_id: int
    unit_id: int
    status: ResultStatus
    reason: str
    def __init__(self, campaign_id: _Optional[int] = ..., unit_id: _Optional[int] = ..., status: _Optional[_Union[ResultStatus, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "code", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: str
    text: str
    def __init__(self, id: _Optional[int] = ..., code: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class WorkRequest(_message.Message):
    __slots__ = ("results", "signature", "want", "tier", "perspectives", "wait_ms", "last_message", "model")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PERSPECTIVES_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    signature: bytes
    want: int
    tier: str
    perspectives: _containers.RepeatedScalarFieldContainer[str]
    wait_ms: int
    last_message: int
    model: str
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., signature: _Optional[bytes] = ..., want: _Optional[int] = ..., tier: _Optional[str] = ..., perspectives: _Optional[_Iterable[str]] = ..., wait_ms: _Optional[int] = ..., last_message: _Optional[int] = ..., model: _Optional[str] = ...) -> None: ...

class WorkResponse(_message.Message):
    __slots__ = ("acks", "lease", "idle_reason", "retry_ms", "messages")
    ACKS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    IDLE_REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_MS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    acks: _containers.RepeatedCompositeFieldContainer[Ack]
    lease: LeaseBatch
    idle_reason: str
    retry_ms: int
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, acks: _Optional[_Iterable[_Union[Ack, _Mapping]]] = ..., lease: _Optional[_Union[LeaseBatch, _Mapping]] = ..., idle_reason: _Optional[str] = ..., retry_ms: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: _containers.RepeatedCompositeFieldContainer[UnitRef]
    def __init__(self, held: _Optional[_Iterable[_Union[UnitRef, _Mapping]]] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("leases", "stop", "more")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[LeaseBatch]
    stop: _containers.RepeatedCompositeFieldContainer[UnitRef]
    more: bool
    def __init__(self, leases: _Optional[_Iterable[_Union[LeaseBatch, _Mapping]]] = ..., stop: _Optional[_Iterable[_Union[UnitRef, _Mapping]]] = ..., more: bool = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("units",)
    UNITS_FIELD_NUMBER: _ClassVar[int]
    units: _containers.RepeatedCompositeFieldContainer[UnitRef]
    def __init__(self, units: _Optional[_Iterable[_Union[UnitRef, _Mapping]]] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("renewed", "stop", "lease_s")
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    renewed: _containers.RepeatedCompositeFieldContainer[UnitRef]
    stop: _containers.RepeatedCompositeFieldContainer[UnitRef]
    lease_s: int
    def __init__(self, renewed: _Optional[_Iterable[_Union[UnitRef, _Mapping]]] = ..., stop: _Optional[_Iterable[_Union[UnitRef, _Mapping]]] = ..., lease_s: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("units", "reason")
    UNITS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    units: _containers.RepeatedCompositeFieldContainer[UnitRef]
    reason: str
    def __init__(self, units: _Optional[_Iterable[_Union[UnitRef, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: int
    def __init__(self, released: _Optional[int] = ...) -> None: ...

class StandingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StandingResponse(_message.Message):
    __slots__ = ("user_name", "host_name", "agreed", "disagreed", "waiting", "failed", "credit", "messages", "unchecked", "tasks", "team", "user_credit", "user_recent")
    USER_NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_NAME_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    DISAGREED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    UNCHECKED_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    USER_CREDIT_FIELD_NUMBER: _ClassVar[int]
    USER_RECENT_FIELD_NUMBER: _ClassVar[int]
    user_name: str
    host_name: str
    agreed: int
    disagreed: int
    waiting: int
    failed: int
    credit: float
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    unchecked: int
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStanding]
    team: str
    user_credit: float
    user_recent: float
    def __init__(self, user_name: _Optional[str] = ..., host_name: _Optional[str] = ..., agreed: _Optional[int] = ..., disagreed: _Optional[int] = ..., waiting: _Optional[int] = ..., failed: _Optional[int] = ..., credit: _Optional[float] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., unchecked: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[TaskStanding, _Mapping]]] = ..., team: _Optional[str] = ..., user_credit: _Optional[float] = ..., user_recent: _Optional[float] = ...) -> None: ...

class TaskStanding(_message.Message):
    __slots__ = ("campaign", "perspective", "model", "agreed", "disagreed", "unchecked", "credit", "credit_each")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    PERSPECTIVE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    DISAGREED_FIELD_NUMBER: _ClassVar[int]
    UNCHECKED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_EACH_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    perspective: str
    model: str
    agreed: int
    disagreed: int
    unchecked: int
    credit: float
    credit_each: float
    def __init__(self, campaign: _Optional[str] = ..., perspective: _Optional[str] = ..., model: _Optional[str] = ..., agreed: _Optional[int] = ..., disagreed: _Optional[int] = ..., unchecked: _Optional[int] = ..., credit: _Optional[float] = ..., credit_each: _Optional[float] = ...) -> None: ...
