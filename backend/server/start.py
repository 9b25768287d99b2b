"""From `mgcface serve` to a running server: one per connection file, its log, its keys, its end."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

import platformdirs
import zmq

from backend import __version__
from backend.errors import MgcFaceError, OutputError
from backend.protocol.client import Client
from backend.protocol.connection import PROOF_BYTES, Connection, read_connection, write_connection, write_private
from backend.protocol.wire import ProtocolError
from backend.server.parents import Parents
from backend.server.server import Server

log = logging.getLogger(__name__)

LOG_BYTES, LOG_FILES = 1 << 20, 2
# How long a second start waits for the first to answer; it answers in milliseconds unless it is frozen.
FIRST_ANSWER_S = 4.0
# How long a second start waits for a first one that is just starting.
LOCK_PATIENCE_S = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
BIND_PATTERN = re.compile(r"(?:tcp://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+|\*)(?::([0-9]{1,5}|\*))?")


class ServeError(MgcFaceError):
    """The server cannot start."""

    code = "serve"


@dataclass(frozen=True)
class Request:
    """What was asked for; None takes the user's own place for the file."""

    connection_file: Path | None = None
    bind: str = "127.0.0.1"
    parent_pid: int | None = None
    device: str = "auto"
    log_file: Path | None = None


def default_connection_file() -> Path:
    return platformdirs.user_data_path("mgcface", appauthor=False) / "server.json"


def serve(request: Request, say: Callable[[str], None], on_signal: Callable[[Callable[[], object]], object]) -> None:
    """Serve until asked to stop, or say that a server is already there; raises :class:`ServeError`.

    Parameters
    ----------
    request : Request
    say : callable (str)
        Gets a line for the user.
    on_signal : callable (callable ())
        Takes what a signal shall call in place of interrupting the program wherever it is.
    """
    file = (request.connection_file or default_connection_file()).absolute()
    log_file = (request.log_file or file.with_suffix(".log")).absolute()
    parents = Parents()
    if request.parent_pid is not None and not parents.add(request.parent_pid):
        raise ServeError(f"There is no process {request.parent_pid} to stay for; leave --parent-pid out.")
    make_folder(file.parent)
    with only_one(file):
        first = find_first(file, request.parent_pid)
        if first is not None:
            say(f"A server runs already at {first.address} (process {first.pid}), with its keys in {file}.")
            return
        keep_log(log_file)
        # From here on there are sockets and files to clear away, so a signal ends the loop and nothing else.
        on_signal(lambda: None)
        server = open_server(request, parents)
        try:
            connection = announce(server, request.bind, file)
        except OSError as error:
            server.close()
            raise OutputError(
                f"{file} cannot be written ({error.strerror}); choose another --connection-file."
            ) from None
    address, process = connection.address, os.getpid()
    log.info("version %s, process %d, at %s", __version__, process, address)
    try:
        say(f"Listening at {address} (process {process}), with the keys in {file} and the log in {log_file}.")
        on_signal(lambda: server.stop("a signal came"))
        server.run()
    finally:
        withdraw(file, connection)
        server.close()


def open_server(request: Request, parents: Parents) -> Server:
    address, host, port = bind_address(request.bind)
    proof = secrets.token_hex(PROOF_BYTES) if is_loopback(host) else ""
    try:
        return Server(address, request.device, proof, parents)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServeError(
                f"Port {port} is taken by another program; choose another with --bind, or leave it out for a free one."
            ) from None
        raise ServeError(f"{host} cannot be listened at ({error.strerror}); choose another --bind.") from None


def bind_address(bind: str) -> tuple[str, str, str]:
    """``HOST``, ``HOST:PORT`` or ``tcp://HOST:PORT`` -> what ZeroMQ binds to, the host, the port."""
    match = BIND_PATTERN.fullmatch(bind)
    port = (match[2] if match else None) or "*"
    if match is None or (port != "*" and not 0 < int(port) < 65536):
        raise ServeError(f"{bind!r} is not an address; give --bind as HOST or HOST:PORT.")
    host = "127.0.0.1" if match[1] == "localhost" else match[1]
    return f"tcp://{host}:{port}", host, port


def is_loopback(host: str) -> bool:
    return host in LOOPBACK or host.startswith("127.")


# -- one server per connection file ----------------------------------------------------------------


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Holds a lock beside the connection file while a server looks for another one or starts."""
    path = file.with_name(file.name + ".lock")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another --connection-file.") from None
    try:
        give_up = time.monotonic() + LOCK_PATIENCE_S
        while not lock(handle):
            if time.monotonic() > give_up:
                raise ServeError(f"Another start holds {path} and does not end; end it or remove that file.")
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)  # which also unlocks


def lock(handle: int) -> bool:
    """Take the lock of the system on a file, if nobody has it; it ends with the process."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def find_first(file: Path, parent_pid: int | None) -> Connection | None:
    """The living server of this connection file, asked to stay for our parent too; None when there is none."""
    try:
        connection = read_connection(file)
    except ProtocolError:
        return None
    with Client(connection, "mgcface serve", __version__) as client:
        request = client.send("ping") if parent_pid is None else ""
        give_up = time.monotonic() + FIRST_ANSWER_S
        while client.lost is None and time.monotonic() < give_up:
            for message in client.poll(100):
                if message.type == "hello" and parent_pid is not None:
                    request = client.send("attach", {"pid": parent_pid})
                elif message.id == request and message.type in ("pong", "attached", "error"):
                    return connection
    return None


def announce(server: Server, bind: str, file: Path) -> Connection:
    """Write the connection file, and the proof beside it where the server opens files; raises OSError."""
    address = server.address
    _, host, _ = bind_address(bind)
    if host in ("0.0.0.0", "*", "[::]"):  # every address of this machine: name one that others can reach
        address = f"tcp://{socket.gethostname()}:{address.rpartition(':')[2]}"
    proof = proof_file(file)
    if server.proof:
        write_private(proof, server.proof)
    keys = server.keys
    connection = Connection(
        address=address,
        server_public_key=keys.server_public,
        client_public_key=keys.client_public,
        client_secret_key=keys.client_secret,
        pid=os.getpid(),
        version=__version__,
        local_proof=str(proof) if server.proof else "",
    )
    write_connection(file, connection)
    return connection


def withdraw(file: Path, connection: Connection) -> None:
    """Remove the files, unless they have become another server's."""
    with suppress(OSError, ProtocolError):
        if read_connection(file) == connection:
            file.unlink()
            proof_file(file).unlink()


def proof_file(file: Path) -> Path:
    return file.with_name(file.name + ".proof")


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another --connection-file.") from None


def keep_log(path: Path) -> None:
    """One rotating file. A full disk costs lines of the log and nothing else."""
    logging.raiseExceptions = False
    try:
        handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another --log-file.") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("backend")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
