"""What a client waits for beyond the computing: the server's start, and a head's way to the client."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from backend.errors import MgcFaceError
from backend.protocol.client import Client
from backend.protocol.connection import Connection, read_connection
from backend.protocol.messages import TERMINAL
from backend.protocol.wire import Message, encode
from backend.server.keys import Keys
from backend.server.outbox import HIGH_WATER
from backend.server.pipe import read_frames, write_frames

# The vertices of open-head, and a record as long as one with 478 landmarks.
VERTICES, RECORD_NUMBERS = 16_628, 2_500
# The server is started for a measurement: longer than this it is broken, not slow.
PATIENCE_S = 120.0


def measure_server(photo: Path, options: dict[str, Any], device: str, repeats: int) -> dict[str, float]:
    """Milliseconds of a real server process.

    Returns
    -------
    dict
        ``listening`` and ``ready``, from its start to the connection file and to warm models; ``over_engine``, the
        median of what a job takes beyond the stages of the engine, as its client sees it.
    """
    with tempfile.TemporaryDirectory(prefix="mgcface-server-") as folder:
        file = Path(folder) / "server.json"
        command = [sys.executable, "-m", "backend.cli", "serve", "--connection-file", str(file), "--device", device]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise MgcFaceError("The server did not start; run `mgcface serve` by hand to see why.")
            listening = time.perf_counter() - started
            with Client(read_connection(file), "bench") as client:
                while not conversation(client, client.send("ping"))[-1].body["ready"]:
                    time.sleep(0.02)
                ready = time.perf_counter() - started
                spent = [over_engine(client, photo, options) for _ in range(repeats + 1)][1:]
        finally:
            process.terminate()
            process.wait()
    seconds = {"listening": listening, "ready": ready, "over_engine": statistics.median(spent)}
    return {name: round(value * 1e3, 1) for name, value in seconds.items()}


def over_engine(client: Client, photo: Path, options: dict[str, Any]) -> float:
    """Seconds of one job less those that its record says the engine's stages took."""
    started = time.perf_counter()
    answers = conversation(client, client.reconstruct([photo.resolve()], options))
    faces = [message for message in answers if message.type == "face"]
    if not faces:
        raise MgcFaceError(next(message.body["message"] for message in answers if "message" in message.body))
    return time.perf_counter() - started - sum(faces[0].body["record"]["timings_ms"].values()) / 1e3


def conversation(client: Client, request: str) -> list[Message]:
    """Everything that a request is answered with, the last word included."""
    answers: list[Message] = []
    give_up = time.monotonic() + PATIENCE_S
    while client.lost is None and time.monotonic() < give_up:
        answers += [message for message in client.poll(20) if message.id == request]
        if answers and answers[-1].type in (*TERMINAL, "pong"):
            return answers
    raise MgcFaceError("The server does not answer; run `mgcface serve` by hand to see why.")


def measure_transport(texture_size: int = 1024, repeats: int = 15) -> float:
    """Median milliseconds of one `face` message: worker's pipe, CURVE, TCP, every check of the client."""
    message = face(texture_size)
    keys, context = Keys(), zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger, router.sndhwm = 0, HIGH_WATER
    authenticator = keys.guard(router, context)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    address = f"tcp://127.0.0.1:{port}"
    connection = Connection(address, keys.server_public, keys.client_public, keys.client_secret)
    try:
        with Client(connection, "bench") as client:
            identity = router.recv_multipart()[0]
            spent = [one_way(message, router, identity, client) for _ in range(repeats)]
    finally:
        router.close()
        authenticator.stop()
        context.term()
    return statistics.median(spent)


def one_way(message: Message, router: zmq.Socket, identity: bytes, client: Client) -> float:
    started = time.perf_counter()
    pipe = io.BytesIO()
    write_frames(pipe, encode(message))
    pipe.seek(0)
    router.send_multipart([identity, *(read_frames(pipe) or [])], copy=False)
    while not any(arrived.type == "face" for arrived in client.poll(100)):
        pass
    return (time.perf_counter() - started) * 1e3


def face(texture_size: int) -> Message:
    rng = np.random.default_rng(1)
    arrays = {
        "neutral": rng.random((VERTICES, 3), np.float32),
        "texture": rng.integers(0, 256, (texture_size, texture_size, 3), np.uint8),
        "confidence": rng.integers(0, 256, (texture_size, texture_size), np.uint8),
        "eye_texture": rng.integers(0, 256, (512, 512, 3), np.uint8),
    }
    record = {"numbers": rng.random(RECORD_NUMBERS).tolist()}
    return Message("face", "job", {"photo": 0, "face": 0, "name": "bench.jpg", "record": record}, arrays)
