"""Messages of any form for the wire, and a host that sends bytes instead of messages."""

from typing import Any, Self

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from protos import signing, work_pb2
from protos.invite import PRIVATE_SERVER_NAME

SERVICE = work_pb2.DESCRIPTOR.services_by_name["Coordinator"]
METHODS = {method.name: GetMessageClass(method.input_type) for method in SERVICE.methods}


def _integers(bits: int, *, signed: bool = False) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high) | st.integers(0, 50) | st.sampled_from((low, high, high // 2 + 1))


_SCALARS = {
    FieldDescriptor.TYPE_UINT32: _integers(32),
    FieldDescriptor.TYPE_UINT64: _integers(64),
    FieldDescriptor.TYPE_INT64: _integers(64, signed=True),
    FieldDescriptor.TYPE_STRING: st.text(max_size=400)
    | st.sampled_from(("80g", "cpu", "\x00", "photo_caption")),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=100),
}


def messages(kind: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of this type with any values in any of their fields."""
    fields = {field.name: _values(field) for field in kind.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: GetMessageClass(kind)(**values))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one = messages(field.message_type) if field.message_type is not None else _SCALARS[field.type]
    return st.lists(one, max_size=4) if field.is_repeated else one


class RawHost:
    """An enrolled host whose calls carry whatever bytes it is given."""

    def __init__(self, address: str, ca: bytes, host_id: int, seed: str) -> None:
        self.id = host_id
        self.key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        options = (("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME),)
        self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options)
        self._session = self._open_session()

    def _open_session(self) -> bytes:
        challenge = self.challenge()
        request = work_pb2.OpenSessionRequest(host_id=self.id, challenge=challenge, protocol=1)
        request.signature = self.key.sign(signing.session(challenge, self.id))
        answer = self.call("OpenSession", request.SerializeToString(), b"")
        return bytes(work_pb2.OpenSessionResponse.FromString(answer).session_token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def challenge(self) -> bytes:
        """A nonce of the coordinator's."""
        return bytes(work_pb2.ChallengeResponse.FromString(self.call("Challenge", b"", b"")).challenge)

    def sign(self, request: work_pb2.WorkRequest) -> None:
        """Signs the results of a request."""
        hashes = [signing.result(result) for result in request.results]
        request.signature = self.key.sign(signing.result_batch(self.id, hashes))

    def call(self, method: str, request: bytes, session: bytes | None = None) -> bytes:
        """The answer's bytes; the session is the host's own unless given. Raises grpc.RpcError."""
        token = self._session if session is None else session
        send = self._channel.unary_unary(f"/{SERVICE.full_name}/{method}")
        return bytes(send(request, metadata=(("chorus-session-bin", token),), timeout=60))
