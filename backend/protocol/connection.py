"""Where the backend listens and the keys that it lets in: one JSON file that only its owner can read.

Whoever holds this file may use the backend. The server makes new keys at every start, so a file that
has been seen by others is worthless after a restart.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zmq

from .wire import PROTOCOL, ProtocolError

# 32 bytes in Z85 (ZeroMQ RFC 32): 40 printable characters.
KEY_PATTERN = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
ADDRESS_PATTERN = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
# Nothing that this project writes comes near; whatever is larger is another file.
MAX_FILE_BYTES = 1 << 16
PROOF_BYTES = 32


@dataclass(frozen=True)
class Connection:
    """The content of a connection file.

    Attributes
    ----------
    address : str
        ``tcp://127.0.0.1:PORT``.
    server_public_key, client_public_key, client_secret_key : str
        CURVE keys in Z85.
    pid : int
        Of the server.
    version : str
        Of the server's package.
    protocol : int
    local_proof : str
        A file beside this one. Whoever can read it is on the server's machine and its user, so that the
        server may open files by their path for them. Empty where the server listens to other machines.
    """

    address: str
    server_public_key: str
    client_public_key: str
    client_secret_key: str
    pid: int = 0
    version: str = ""
    protocol: int = PROTOCOL
    local_proof: str = ""


def new_key_pair() -> tuple[str, str]:
    """A fresh CURVE key pair in Z85: public, secret."""
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")


def write_connection(path: Path | str, connection: Connection) -> None:
    """Write the file, readable by its owner alone, whole or not at all."""
    write_private(path, json.dumps(asdict(connection), indent=2) + "\n")


def write_private(path: Path | str, text: str) -> None:
    """A file of mode 0600 that appears whole; raises OSError."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        # The mode holds from the first byte on: a chmod afterwards would leave a moment for others.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_connection(path: Path | str) -> Connection:
    """The connection in a file; :class:`ProtocolError` with one sentence when it cannot be used."""
    path = Path(path)
    text = _read(path)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ProtocolError(f"{path} is not a connection file; start the backend again.", "connection")
    if fields.get("protocol") != PROTOCOL:
        raise ProtocolError(
            f"{path} is of protocol version {_short(fields.get('protocol'))} where {PROTOCOL} is spoken; "
            "update the add-on and the backend to the same version and start the backend again.",
            "version",
        )
    known = {name: fields[name] for name in Connection.__dataclass_fields__ if name in fields}
    wrong = _first_wrong(known)
    if wrong:
        raise ProtocolError(f"{path} holds no usable {wrong}; start the backend again.", "connection")
    return Connection(**known)


def prove_local(connection: Connection) -> str:
    """What ``hello`` says to be allowed to name files; empty where this is another machine or user."""
    if not connection.local_proof:
        return ""
    try:
        return Path(connection.local_proof).read_text("ascii")[: 2 * PROOF_BYTES]
    except (OSError, ValueError):
        return ""


def _read(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise ProtocolError(
                f"{path} is not a connection file; choose the file that the backend wrote.", "connection"
            )
        if sys.platform != "win32" and status.st_mode & 0o077:
            raise ProtocolError(
                f"{path} holds keys and others may read it; allow that to its owner alone (chmod 600).", "connection"
            )
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        raise ProtocolError(f"There is no connection file at {path}; start the backend.", "connection") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProtocolError(f"{path} cannot be read ({reason}); check its permissions.", "connection") from None


def _first_wrong(fields: dict[str, Any]) -> str:
    """Which field of a connection file makes no sense; empty when all do."""
    for name in ("server_public_key", "client_public_key", "client_secret_key"):
        if not isinstance(fields.get(name), str) or not KEY_PATTERN.fullmatch(fields[name]):
            return name
    if not isinstance(fields.get("address"), str) or not ADDRESS_PATTERN.fullmatch(fields["address"]):
        return "address"
    if not isinstance(fields.get("pid", 0), int) or isinstance(fields.get("pid", 0), bool):
        return "pid"
    return next((name for name in ("version", "local_proof") if not isinstance(fields.get(name, ""), str)), "")


def _short(value: Any) -> str:
    return repr(value)[:20]
