"""What a port speaks that gave no answer, for somebody who may have given the wrong one."""

import socket

from serving.connection import Access

_PATIENCE_S = 1.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_ENOUGH = 1024  # bytes of a reply, which tell
_TLS_ALERT = b"\x15\x03"
_HTTP2_SETTINGS = 4  # the type of the frame that a gRPC server begins with, in its fourth byte


def advice(access: Access, api: str) -> str:
    """Returns what may be wrong with an address that somebody listens on; "" if nothing is known.

    Args:
      access: where no answer came from.
      api: what it was asked over, "grpc" or "rest".
    """
    spoken = _spoken(access.address)
    if spoken == "tls":
        return "" if access.ca_file else "speaks TLS: --ca FILE says who signed its certificate"
    if spoken and access.ca_file:
        return "speaks no TLS: leave out --ca"
    if (spoken, api) == ("http", "grpc"):
        return "speaks HTTP, not gRPC: give the port of gRPC, or --api rest"
    if (spoken, api) == ("grpc", "rest"):
        return "speaks gRPC, not HTTP: give the port of REST, or --api grpc"
    return ""


def _spoken(address: str) -> str:
    """Returns "http", "grpc" (both without TLS), "tls", or "" if nobody or something else answers.

    A plain HTTP request tells them apart: a gRPC server sends its settings before it reads any,
    and a proxy with TLS says in words that it wants HTTPS.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S) as opened:
            opened.sendall(_REQUEST)
            said = opened.recv(_ENOUGH)
    except (OSError, ValueError, OverflowError):
        return ""
    if said.startswith(b"HTTP/"):
        return "tls" if b"HTTPS" in said else "http"
    if said[3:4] == bytes([_HTTP2_SETTINGS]):
        return "grpc"
    return "tls" if said.startswith(_TLS_ALERT) else ""
