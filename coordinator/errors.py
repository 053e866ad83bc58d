"""The one error that crosses the wire."""

from protos import work_pb2


class CallRefused(Exception):  # noqa: N818 - the protocol's word
    """A call that is refused whole; `code` is one of the wire's ErrorCode, the message says what to do."""

    def __init__(self, code: work_pb2.ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class OperatorError(Exception):
    """An operator's request that cannot be met; `code` is stable, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
