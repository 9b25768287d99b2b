"""What goes wrong between processes: each with real ones, and the server or the user well afterwards."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import PATIENCE_S, PHOTO, ROOT, Running, finish, wait_for

from backend.protocol.client import FROZEN_AFTER_S, PING_EVERY_S, Client
from backend.protocol.connection import Connection, new_key_pair, read_connection
from backend.protocol.wire import MAGIC, Message, ProtocolError, encode
from backend.server.outbox import Outbox

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")

# Frames that the fuzzer throws: examples of hypothesis times messages of each.
FUZZ_EXAMPLES, FUZZ_MESSAGES = 100, 100


def raw_socket(context: zmq.Context, connection: Connection) -> zmq.Socket:
    """A DEALER with the right keys that may send anything."""
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.rcvtimeo = round(PATIENCE_S * 1e3)
    dealer.curve_serverkey = connection.server_public_key.encode()
    dealer.curve_publickey = connection.client_public_key.encode()
    dealer.curve_secretkey = connection.client_secret_key.encode()
    dealer.connect(connection.address)
    return dealer


def still_answers(server: Running) -> None:
    with server.client() as client:
        ping = client.send("ping")
        assert wait_for(client, lambda message: message.id == ping).type == "pong"


def wait_until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "What was waited for did not come."


def lost_reason(connection: Connection) -> str:
    """Why a client with this connection gets nowhere."""
    with Client(connection) as client:
        give_up = time.monotonic() + PATIENCE_S
        while client.lost is None and time.monotonic() < give_up:
            assert client.poll(50) == []
        assert client.lost is not None
        return client.lost.code


# -- the backend goes --------------------------------------------------------------------------------


@on_posix
def test_a_backend_killed_in_the_middle_of_a_job_fails_it_with_a_sentence(start):
    server = start()
    with server.client() as client:
        job = client.reconstruct([PHOTO] * 4)
        wait_for(client, lambda message: message.type == "accepted")
        server.process.kill()
        end = next(message for _ in range(3000) for message in client.poll(50) if message.id == job)
        assert (end.type, end.body["code"]) == ("failed", "lost") and "start it again" in end.body["message"]
        with pytest.raises(ProtocolError, match="start it again"):
            client.reconstruct([PHOTO])
        assert client.poll() == []


@on_posix
def test_a_frozen_backend_is_noticed(shared):
    with shared.client() as client:
        os.kill(shared.process.pid, signal.SIGSTOP)
        started = time.monotonic()
        try:
            job = client.reconstruct([PHOTO])
            end = next(message for _ in range(3000) for message in client.poll(50) if message.id == job)
        finally:
            os.kill(shared.process.pid, signal.SIGCONT)
    assert (end.type, end.body["code"]) == ("failed", "frozen") and "does not answer" in end.body["message"]
    # Nothing here waits on the server, so only this process being held up could make it later than 5 s.
    assert PING_EVERY_S + FROZEN_AFTER_S < 5.0
    sys.stdout.write(f"frozen backend noticed after {time.monotonic() - started:.1f} s\n")
    still_answers(shared)


def test_nobody_at_the_address_is_noticed_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    assert lost_reason(Connection(address, new_key_pair()[0], *new_key_pair())) == "lost"


def test_another_program_at_the_address_is_noticed():
    """One that takes connections and says nothing, as a frozen one or a foreign one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        assert lost_reason(Connection(address, new_key_pair()[0], *new_key_pair())) in ("frozen", "keys")


# -- keys --------------------------------------------------------------------------------------------


def test_a_wrong_key_is_told_at_once(shared):
    public, secret = new_key_pair()
    assert lost_reason(replace(shared.connection, client_public_key=public, client_secret_key=secret)) == "keys"
    assert lost_reason(replace(shared.connection, server_public_key=public)) == "keys"
    still_answers(shared)


@pytest.mark.parametrize("mechanism", ["none", "plain", "other key", "server key alone"])
def test_without_the_key_nothing_answers(shared, mechanism):
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    if mechanism == "plain":
        dealer.plain_username, dealer.plain_password = b"user", b"password"
    elif mechanism in ("other key", "server key alone"):
        public, secret = new_key_pair()
        dealer.curve_serverkey = shared.connection.server_public_key.encode()
        dealer.curve_publickey, dealer.curve_secretkey = public.encode(), secret.encode()
    dealer.connect(shared.connection.address)
    for frames in ([MAGIC, b'{"type":"ping","id":"x"}'], [MAGIC, b'{"type":"shutdown"}']):
        dealer.send_multipart(frames)
    # A client with the key has its answer long before this.
    still_answers(shared)
    assert dealer.poll(1500) == 0
    dealer.close()
    context.term()
    assert shared.process.poll() is None


def test_bytes_that_are_no_zeromq_are_answered_with_nothing_of_ours(shared):
    host, port = shared.connection.address.removeprefix("tcp://").split(":")
    sockets = []
    for index in range(200):
        one = socket.create_connection((host, int(port)), timeout=30)
        one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" if index % 2 else random.Random(index).randbytes(200))
        sockets.append(one)
    still_answers(shared)
    for one in sockets:
        one.settimeout(30)
        try:
            said = one.recv(4096)
        except OSError:
            said = b""
        # ZeroMQ greets everyone with its own version; nothing of this program is in it.
        assert b"mgcface" not in said.lower() and b"MGCF" not in said
        one.close()
    still_answers(shared)


# -- messages that should not be ---------------------------------------------------------------------


def answers_of(shared: Running, *requests: list[bytes]) -> list[Message]:
    from backend.protocol.wire import decode

    context = zmq.Context()
    dealer = raw_socket(context, shared.connection)
    answers = []
    for frames in requests:
        dealer.send_multipart(frames)
        answers.append(decode(dealer.recv_multipart()))
    dealer.close()
    context.term()
    return answers


def test_another_protocol_version_is_told_who_is_to_update(shared):
    old, new, said = answers_of(
        shared,
        [b"MGCF/0", b'{"type":"ping"}'],
        [b"MGCF/2", b'{"type":"ping"}'],
        [MAGIC, b'{"type":"hello","id":"h","protocol":99,"client":{}}'],
    )
    assert {answer.body["code"] for answer in (old, new, said)} == {"version"}
    assert "update the program that sent it" in old.body["message"] and "update this one" in new.body["message"]
    assert said.id == "h" and "99" in said.body["message"]


# Right keys and a connection file of this version, but it speaks the one before.
OLD_SERVER = """
import sys, zmq
from backend.protocol.connection import Connection, write_connection
from backend.server.keys import Keys

keys, context = Keys(), zmq.Context()
router = context.socket(zmq.ROUTER)
guard = keys.guard(router, context)
port = router.bind_to_random_port("tcp://127.0.0.1")
own = (keys.server_public, keys.client_public, keys.client_secret)
write_connection(sys.argv[1], Connection(f"tcp://127.0.0.1:{port}", *own))
print("listening", flush=True)
while True:
    client, *_ = router.recv_multipart()
    router.send_multipart([client, b"MGCF/0", b'{"type":"hello"}'])
"""


def test_a_server_of_another_protocol_version_is_told_at_once(tmp_path):
    file = tmp_path / "server.json"
    old = subprocess.Popen([sys.executable, "-c", OLD_SERVER, str(file)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert old.stdout is not None and old.stdout.readline()
        with Client(read_connection(file)) as client:
            wait_until(lambda: client.poll(50) == [] and client.lost)
            assert client.lost is not None and client.lost.code == "version"
            assert "version 0" in str(client.lost) and "update" in str(client.lost)
    finally:
        old.kill()
        old.wait()


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


def test_a_pickle_is_refused_and_never_opened(shared):
    bomb = pickle.dumps(Bomb())
    header = b'{"type":"reconstruct","id":"j","photos":[{"name":"a","array":"a"}],'
    header += b'"arrays":[{"name":"a","dtype":"O","shape":[1]}]}'
    first, second, third = answers_of(shared, [MAGIC, bomb], [bomb], [MAGIC, header, bomb])
    assert (first.type, second.type) == ("error", "error")
    assert (third.type, third.id) == ("failed", "j") and "type" in third.body["message"]
    still_answers(shared)


def test_a_pickle_as_a_photo_is_a_photo_that_cannot_be_read(client):
    seen: list[Message] = []
    photo = np.frombuffer(pickle.dumps(Bomb()), np.uint8)
    job = client.send("reconstruct", {"photos": [{"name": "a.jpg", "array": "a"}]}, {"a": photo})
    assert finish(client, job, seen).body["failed"] == 1
    assert [message.body["code"] for message in seen if message.type == "photo_failed"] == ["photo"]


def test_no_path_is_opened_for_a_client_that_cannot_read_the_servers_files(shared):
    """Through a copied connection file, as over a tunnel: the keys are right, the proof is not there."""
    with Client(replace(shared.connection, local_proof="")) as far, Client(shared.connection) as near:
        for client in (far, near):
            wait_for(client, lambda message: message.type == "hello")
        assert "local_files" not in far.server["capabilities"] and "local_files" in near.server["capabilities"]
        body = {"photos": [{"name": "a.jpg", "path": str(PHOTO)}], "options": {"texture_size": 0}}
        end = finish(far, far.send("reconstruct", body))
        assert (end.type, end.body["code"]) == ("failed", "denied")
        assert finish(far, far.reconstruct([PHOTO], {"texture_size": 0})).body["faces"] == 1  # sent as bytes
        body["photos"][0]["path"] = "examples/astronaut.jpg"
        assert finish(near, near.send("reconstruct", body)).type == "failed"
        for kind in ("attach", "detach"):
            denied = far.send(kind, {"pid": os.getpid()})
            assert wait_for(far, lambda message, denied=denied: message.id == denied).body["code"] == "denied"


def test_a_job_that_is_too_large_is_refused_before_it_is_sent(client):
    photo = np.zeros(client.server["limits"]["message_bytes"], np.uint8)
    with pytest.raises(ProtocolError, match="fewer or smaller photos"):
        client.send("reconstruct", {"photos": [{"name": "a", "array": "a"}]}, {"a": photo})
    assert client.jobs == {} and client.lost is None


SEEDS = [
    encode(Message("hello", "a", {"client": {"name": "fuzz"}, "protocol": 1})),
    encode(Message("ping", "b")),
    encode(Message("model", "c", {"name": "nosuch"})),
    encode(Message("cancel", "d", {"job": "b"})),
    encode(Message("attach", "e", {"pid": 0})),
    encode(Message("detach", "g", {"pid": 0})),
    encode(
        Message(
            "reconstruct",
            "f",
            {"photos": [{"name": "x", "array": "a"}], "options": {"stages": []}},
            {"a": np.zeros(9, np.uint8)},
        )
    ),
]


def fuzzed(source: random.Random) -> list[bytes]:
    """Random frames, or a message of ours with some bytes changed, left out or put in."""
    if source.random() < 0.3:
        frames = [source.randbytes(source.randint(0, 80)) for _ in range(source.randint(1, 6))]
        return [MAGIC, *frames] if source.random() < 0.5 else frames
    frames = [bytes(frame) for frame in source.choice(SEEDS)]
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(frames))
        frame = bytearray(frames[place])
        where = source.randint(0, len(frame))
        change = source.random()
        if change < 0.4 and frame:
            frame[where % len(frame)] = source.randrange(256)
        elif change < 0.6:
            del frame[where : where + source.randint(1, 8)]
        elif change < 0.8:
            frame[where:where] = source.choice(
                [b"[", b"{", b'"', b"null", b"-1", b"1e999", b"\\u0000", b"\xff", b"99999999999999999999"]
            )
        elif change < 0.9:
            frames.insert(source.randint(0, len(frames)), source.randbytes(4))
        else:
            frames[place:place] = [bytes(frame)]
        if place < len(frames):
            frames[place] = bytes(frame)
    return frames


def test_ten_thousand_random_and_mutated_messages_leave_the_server_answering(shared):
    context = zmq.Context()
    dealer = raw_socket(context, shared.connection)
    sent = 0

    @settings(max_examples=FUZZ_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32 - 1))
    def throw(seed: int) -> None:
        nonlocal sent
        source = random.Random(seed)
        for _ in range(FUZZ_MESSAGES):
            frames = fuzzed(source)
            if b"shutdown" not in b"".join(frames):
                dealer.send_multipart(frames)
                sent += 1
        while dealer.poll(0):
            dealer.recv_multipart()
        marker = f"s{sent}".encode()
        dealer.send_multipart([MAGIC, b'{"type":"ping","id":"' + marker + b'"}'])
        # Every hundred messages the server shows that it is well, to this very client.
        while marker not in dealer.recv_multipart()[1]:
            pass

    throw()
    dealer.close()
    context.term()
    assert sent >= 0.9 * FUZZ_EXAMPLES * FUZZ_MESSAGES
    assert shared.process.poll() is None and "Traceback" not in shared.log_text()
    with shared.client() as client:
        assert finish(client, client.reconstruct([PHOTO], {"texture_size": 0})).body["faces"] == 1


# -- clients that misbehave --------------------------------------------------------------------------


def test_a_client_that_floods_and_never_reads_holds_nobody_up(shared):
    """From a process of its own, as fast as it can: pings, jobs and garbage, for as long as the test lasts."""
    flood = (
        "import sys, itertools, zmq\n"
        "from backend.protocol.connection import read_connection\n"
        "c = read_connection(sys.argv[1])\n"
        "s = zmq.Context().socket(zmq.DEALER)\n"
        "s.rcvhwm = 1\n"
        "s.curve_serverkey, s.curve_publickey, s.curve_secretkey = (\n"
        "    k.encode() for k in (c.server_public_key, c.client_public_key, c.client_secret_key))\n"
        "s.connect(c.address)\n"
        'job = b\'{"type":"reconstruct","id":"%d","photos":[{"name":"x","array":"a"}],\'\n'
        'job += b\'"arrays":[{"name":"a","dtype":"u1","shape":[9]}]}\'\n'
        "for n in itertools.count():\n"
        "    s.send_multipart([b'MGCF/1', b'{\"type\":\"ping\"}'])\n"
        "    s.send_multipart([b'MGCF/1', b'garbage' * 99])\n"
        "    s.send_multipart([b'MGCF/1', job % n, bytes(9)])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", flood, str(shared.file)])
    try:
        with shared.client() as client:
            for _ in range(20):
                ping = client.send("ping")
                wait_for(client, lambda message, ping=ping: message.id == ping)
            assert finish(client, client.reconstruct([PHOTO], {"texture_size": 0})).body["faces"] == 1
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    still_answers(shared)


def test_too_many_jobs_of_one_client_are_refused(client):
    limit = client.server["limits"]["jobs"]
    blocker = client.reconstruct([PHOTO] * 4)
    jobs = [client.reconstruct([PHOTO], {"stages": ["detect"], "texture_size": 0}) for _ in range(limit + 10)]
    for job in jobs:
        client.cancel(job)
    seen: list[Message] = []
    client.cancel(blocker)
    while client.jobs:
        seen += client.poll(50)
    ends = [message for message in seen if message.type in ("failed", "cancelled", "done")]
    assert len({message.id for message in ends}) == len(ends) == limit + 11
    assert {message.body["code"] for message in ends if message.type == "failed"} == {"busy"}


def test_results_wait_for_a_client_that_reads_slowly_and_go_with_one_that_left():
    """The outbox alone, over real sockets with little room."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.router_mandatory, router.sndhwm, router.sndbuf, router.linger = True, 1, 4096, 0
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer = context.socket(zmq.DEALER)
    dealer.rcvhwm, dealer.rcvbuf, dealer.linger = 1, 4096, 0
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(b"hello")
    client, _ = router.recv_multipart()
    outbox = Outbox(router)
    count, size = 60, 1 << 20
    for index in range(count):
        assert outbox.send(client, [index.to_bytes(4, "big"), bytes(size)])
    assert outbox.waiting
    assert outbox.slow_clients() == ([client] if outbox.sizes[client] > 1 << 26 else [])
    received = []
    while len(received) < count:
        assert outbox.flush() == []
        while dealer.poll(20):
            received.append(int.from_bytes(dealer.recv_multipart()[0], "big"))
    assert received == list(range(count)) and not outbox.waiting
    for _ in range(count):
        outbox.send(client, [b"more", bytes(size)])
    dealer.close()
    give_up = time.monotonic() + PATIENCE_S
    while (gone := outbox.flush()) == [] and time.monotonic() < give_up:
        assert router.poll(20) == 0  # as the server's loop does; ZeroMQ notices the end while it looks for messages
    assert gone == [client]
    outbox.forget(client)
    assert not outbox.send(client, [b"nobody"]) and not outbox.waiting
    router.close()
    context.term()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of Linux")
def test_a_disk_that_fills_up_costs_no_texture(start):
    """From some moment on no file of server and worker may grow: not the log's, nor any that a library would want."""
    import resource

    server = start("--device", "cpu")
    server.wait_ready()
    for pid in (server.process.pid, server.worker_pid()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with server.client() as client:
        seen: list[Message] = []
        done = finish(client, client.reconstruct([PHOTO], {"texture_size": 1024}), seen)
    assert (done.type, done.body["faces"]) == ("done", 1)
    (face,) = [message for message in seen if message.type == "face"]
    assert face.arrays["texture"].any()
    still_answers(server)
