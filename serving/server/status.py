"""Errors as both APIs tell them: a canonical code and one message.

The codes are those of gRPC. REST turns them into HTTP codes in `rest_api`.
"""

import grpc

# Longer texts are cut, as a gRPC status travels in a header of limited size.
MESSAGE_LIMIT = 1024
CUT_MARK = "...TRUNCATED"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request that cannot be answered, with the code that both APIs report."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """The message alone."""
        return self.message


def invalid(message: str) -> ServingError:
    """A request that is wrong whatever the state of the server."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """A model or version that is not served."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def precondition(message: str) -> ServingError:
    """A request that the model or the server cannot take in its present state."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def unimplemented(message: str) -> ServingError:
    """Something this API does not do."""
    return ServingError(grpc.StatusCode.UNIMPLEMENTED, message)


def internal(message: str) -> ServingError:
    """A fault that is not the caller's."""
    return ServingError(grpc.StatusCode.INTERNAL, message)


def code_of(number: int) -> grpc.StatusCode:
    """The canonical code of a number, UNKNOWN for one that is not canonical."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


def absl_text(error: ServingError) -> str:
    """Code and message in one string, `INVALID_ARGUMENT: ...`."""
    return f"{error.code.name}: {error.message}"


def cut(message: str) -> str:
    """The message as it travels over gRPC: at most 1,024 characters and a mark."""
    if len(message) <= MESSAGE_LIMIT:
        return message
    return message[:MESSAGE_LIMIT] + CUT_MARK
