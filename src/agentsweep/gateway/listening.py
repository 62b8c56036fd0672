"""The sockets the gateway listens on: loopback and Unix sockets, no others."""

import errno
import os
import socket
import stat
from pathlib import Path

from agentsweep.errors import ConfigError, InfraError

_LOOPBACK = {"127.0.0.1": socket.AF_INET, "[::1]": socket.AF_INET6}
# sun_path of unix(7) has 108 bytes, and the last one is a NUL.
_SOCKET_PATH_LIMIT_BYTES = 107


def bind(listen: str) -> tuple[socket.socket, str]:
    """A listening socket for `tcp:127.0.0.1:<port>`, `tcp:[::1]:<port>` or `unix:<path>`, and
    its address as a client writes it.

    Port 0 takes a free one. The socket file gets mode 0666, because the agent's user is not ours;
    who can reach it is decided by the directory. Raises ConfigError for any other place, since
    whoever reaches the gateway can spend what it can spend; InfraError when the place is taken.
    """
    kind, _, place = listen.partition(":")
    if kind == "unix" and place.startswith("/"):
        return _bind_unix(listen, place), f"unix:{place}"
    host, _, port = place.rpartition(":")
    if kind == "tcp" and host in _LOOPBACK and port.isascii() and port.isdigit():
        if int(port) > 65535:
            raise ConfigError(f"listen: {listen!r} has no valid port; write 0 to 65535")
        listening = _bind_tcp(listen, host, int(port))
        return listening, f"http://{host}:{listening.getsockname()[1]}"
    raise ConfigError(
        f"listen: {listen!r} is not allowed; write tcp:127.0.0.1:<port>, tcp:[::1]:<port> or "
        "unix:<absolute path>, because the gateway serves this host only"
    )


def _bind_tcp(listen: str, host: str, port: int) -> socket.socket:
    listening = socket.socket(_LOOPBACK[host], socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise _cannot_listen(listen, error) from None
    return listening


def _bind_unix(listen: str, path: str) -> socket.socket:
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT_BYTES:
        raise ConfigError(
            f"listen: {listen!r} is too long for a socket ({len(os.fsencode(path))} bytes, at most "
            f"{_SOCKET_PATH_LIMIT_BYTES}); choose a shorter directory, for example with TMPDIR"
        )
    _remove_stale(Path(path))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        Path(path).chmod(0o666)
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise _cannot_listen(listen, error) from None
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket file whose server is dead; anything else in its place stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            return


def _cannot_listen(listen: str, error: OSError) -> InfraError:
    if error.errno == errno.EADDRINUSE:
        return InfraError(f"listen: {listen} is in use by another process; choose another one")
    return InfraError(f"listen: {listen} cannot be used: {error.strerror}")
