"""Whether a TCP port can be listened on."""

import socket

from data_pipeline.errors import InputError


def check_free(address: str, port: int) -> None:
    """Raises InputError if a TCP port is taken; port 0 stands for none."""
    if not port:
        return
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.strip("[]"), port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot listen on {address}:{port}: {reason}") from error
