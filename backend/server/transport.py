"""How long a head is on its way: from the worker's hands to arrays in the client's, without any computing."""

from __future__ import annotations

import io
import statistics
import time

import numpy as np
import zmq

from backend.protocol.client import Client
from backend.protocol.connection import Connection
from backend.protocol.wire import Message, encode
from backend.server.keys import Keys
from backend.server.outbox import HIGH_WATER
from backend.server.pipe import read_frames, write_frames

# The vertices of open-head, and a record as long as one with 478 landmarks.
VERTICES, RECORD_NUMBERS = 16_628, 2_500


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
