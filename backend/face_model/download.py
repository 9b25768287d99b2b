"""Fetching files over HTTP into a folder, each checked against its SHA-256."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from backend.errors import Cancelled, ModelError, OutputError

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 18

# Many small files: a few connections hide the round trips, more would be rude to the server.
CONNECTIONS = 4

Progress = Callable[[float, str], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class RemoteFile:
    """``path`` below the base URL, and what its content must be."""

    path: str
    size: int
    sha256: str


def fetch_all(
    base_url: str,
    files: list[RemoteFile],
    folder: Path,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> None:
    """Fetch files into ``folder``, keeping their paths.

    Raises
    ------
    ModelError
        A file cannot be had or is not what it should be.
    OutputError
        The disk is full or not writable.
    Cancelled
        ``cancel`` returned true.

    The caller owns the folder and removes it after any error.
    """
    total = sum(file.size for file in files) or 1
    done, lock, stop = [0], threading.Lock(), threading.Event()

    def advance(count: int, name: str) -> None:
        if stop.is_set() or (cancel is not None and cancel()):
            stop.set()
            raise Cancelled("The download was cancelled; nothing was installed.")
        with lock:
            done[0] += count
            if progress is not None:
                progress(min(1.0, done[0] / total), name)

    def fetch_one(file: RemoteFile) -> None:
        if stop.is_set():
            raise Cancelled("The download was cancelled; nothing was installed.")
        try:
            fetch(base_url, file, folder / file.path, lambda count: advance(count, Path(file.path).name))
        except BaseException:
            stop.set()
            raise

    need = shutil.disk_usage(folder).free
    if need < total:
        raise OutputError(f"{folder} has {need >> 20} MB free and {total >> 20} MB are needed; free some space.")
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        results = [pool.submit(fetch_one, file) for file in files]
        try:
            errors = [error for error in (result.exception() for result in results) if error is not None]
        except BaseException:
            # Ctrl-C arrives here, in the waiting thread: without this the rest would still be fetched.
            stop.set()
            raise
    # The first failure stops the others, which then report that they were cancelled.
    causes = [error for error in errors if not isinstance(error, Cancelled)]
    for error in causes + errors:
        raise error


def fetch(base_url: str, file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Fetch one file; it is at ``target`` afterwards only when its checksum is right."""
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/{quote(file.path)}",
        headers={"User-Agent": "mgcface", "Accept-Encoding": "gzip"},
    )
    digest, size = hashlib.sha256(), 0
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, open(part, "wb") as out:
            packed = response.headers.get("Content-Encoding") == "gzip"
            stream = gzip.GzipFile(fileobj=response) if packed else response
            # One byte more than expected is enough to know that the file is wrong.
            while chunk := stream.read(min(CHUNK_BYTES, file.size + 1 - size)):
                digest.update(chunk)
                out.write(chunk)
                size += len(chunk)
                advance(len(chunk))
    except urllib.error.HTTPError as error:
        raise _failed(file, f"the server answered {error.code}") from error
    except OSError as error:
        if isinstance(error, urllib.error.URLError | TimeoutError | gzip.BadGzipFile | ConnectionError):
            raise _failed(file, str(getattr(error, "reason", error)) or "no answer in time") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"The disk of {target.parent} is full; free some space and install again.") from error
        if error.errno is None:
            raise _failed(file, str(error)) from error
        raise OutputError(f"{target} cannot be written ({error.strerror}); check the folder's permissions.") from error
    except (EOFError, http.client.HTTPException) as error:
        raise _failed(file, "the connection broke") from error
    if size != file.size or digest.hexdigest() != file.sha256:
        raise ModelError(
            f"{Path(file.path).name} did not arrive as published (its SHA-256 differs), so nothing was installed; "
            "try again, or get the files yourself and use --from."
        )
    part.replace(target)


def _failed(file: RemoteFile, reason: str) -> ModelError:
    return ModelError(
        f"{Path(file.path).name} could not be downloaded ({reason}), so nothing was installed; check the connection, "
        "or get the files yourself and use --from."
    )
