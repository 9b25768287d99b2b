"""How the server starts and ends: one per connection file, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_process import PATIENCE_S, ROOT, wait_for

from backend.server.parents import Parents

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and modes")


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend.cli", "serve", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def runs(pid: int) -> bool:
    return Parents().add(pid)


def gone(pid: int) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while runs(pid) and time.monotonic() < give_up:
        time.sleep(0.05)
    return not runs(pid)


@on_posix
def test_it_says_where_it_listens_and_leaves_nothing_behind(start, tmp_path):
    server = start()
    assert "Listening at tcp://127.0.0.1:" in server.said and str(server.file) in server.said
    assert stat.S_IMODE(server.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(server.connection.local_proof).stat().st_mode) == 0o600
    worker = server.worker_pid()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0
    assert gone(worker)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.json.lock", "server.log"]


STOPPED_WHILE_STARTING = """
import os, signal, sys
from pathlib import Path
from backend.commands.console import run_guarded
from backend.server.start import Request, serve

def work(interrupt):
    serve(Request(Path(sys.argv[1])), lambda line: os.kill(os.getpid(), signal.SIGTERM), interrupt.answer_with)
    return 0

sys.exit(run_guarded(work))
"""


@on_posix
def test_a_signal_before_the_loop_begins_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-c", STOPPED_WHILE_STARTING, str(tmp_path / "server.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.json.lock", "server.log"]


def test_shutdown_tells_every_client(start):
    server = start()
    with server.client() as client, server.client() as other:
        client.send("shutdown")
        for one in (client, other):
            wait_for(one, lambda message: message.type == "closing")
    assert server.process.wait(PATIENCE_S) == 0


@on_posix
def test_a_killed_server_takes_its_worker_along(start):
    server = start()
    worker = server.worker_pid()
    server.process.kill()
    assert gone(worker)
    # The connection file of a dead server is taken over.
    again = start()
    assert "Listening" in again.said
    again.client().close()


def test_a_second_start_finds_the_first(shared):
    before = shared.file.read_bytes()
    second = serve("--connection-file", str(shared.file))
    assert second.returncode == 0 and f"process {shared.process.pid}" in second.stdout
    assert shared.file.read_bytes() == before
    shared.client().close()


@on_posix
def test_two_starts_at_once_make_one_server(start, tmp_path):
    commands = [[sys.executable, "-m", "backend.cli", "serve", "--connection-file", str(tmp_path / "server.json")]] * 3
    processes = [subprocess.Popen(one, cwd=ROOT, stdout=subprocess.PIPE, text=True) for one in commands]
    said = [process.stdout.readline() for process in processes if process.stdout]
    try:
        assert sorted(line.split()[0] for line in said) == ["A", "A", "Listening"]
    finally:
        for process, line in zip(processes, said):
            if line.startswith("Listening"):
                process.terminate()
            assert process.wait(PATIENCE_S) == 0


@on_posix
def test_it_ends_with_the_last_of_its_parents(start):
    parents = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    server = start("--parent-pid", str(parents[0].pid))
    second = serve("--connection-file", str(server.file), "--parent-pid", str(parents[1].pid))
    assert second.returncode == 0 and "runs already" in second.stdout
    parents[0].kill()  # and not collected: a zombie does not run
    time.sleep(2.5)
    server.client().close()
    parents[1].kill()
    assert server.process.wait(PATIENCE_S) == 0
    assert "have ended" in server.log_text() and not server.file.exists()
    for parent in parents:
        parent.wait()


def test_it_ends_when_the_last_program_lets_go_of_it(start):
    """As Blender does when its add-on is switched off; another one may still need the server."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        server = start("--parent-pid", str(os.getpid()))
        with server.client() as client:
            for kind, pid in (("attach", other.pid), ("detach", os.getpid()), ("detach", os.getpid())):
                asked = client.send(kind, {"pid": pid})
                answer = wait_for(client, lambda message, asked=asked: message.id == asked)
                assert answer.type == f"{kind}ed" and answer.body.get("others", 1) == 1
            client.send("detach", {"pid": other.pid})
            wait_for(client, lambda message: message.type == "closing")
        assert server.process.wait(PATIENCE_S) == 0 and not server.file.exists()
        other.kill()


def test_a_port_that_is_taken_says_what_to_do(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = serve("--connection-file", str(tmp_path / "s.json"), "--bind", f"127.0.0.1:{port}")
    assert answer.returncode == 1 and f"Port {port} is taken" in answer.stderr
    assert not (tmp_path / "s.json").exists()


WRONG = {
    "bind": ("--bind", "not an address"),
    "bind port": ("--bind", "127.0.0.1:99999"),
    "bind host": ("--bind", "203.0.113.7"),  # TEST-NET-3 (RFC 5737): nobody's own address
    "parent": ("--parent-pid", "2147483646"),
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_served_is_one_sentence(tmp_path, arguments):
    answer = serve("--connection-file", str(tmp_path / "s.json"), *arguments)
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1 and answer.stderr.startswith("mgcface: ")
    assert not (tmp_path / "s.json").exists()


def test_a_connection_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "s.json", Path(os.devnull) / "s.json"):
        answer = serve("--connection-file", str(place))
        assert answer.returncode == 1 and "choose another --connection-file" in answer.stderr
    (tmp_path / "folder.json").mkdir()
    answer = serve("--connection-file", str(tmp_path / "folder.json"))
    assert answer.returncode == 1 and "choose another --connection-file" in answer.stderr


def test_a_server_for_other_machines_opens_no_files(start):
    server = start("--bind", "0.0.0.0")
    assert server.connection.local_proof == ""
    assert f"tcp://{socket.gethostname()}:" in server.connection.address


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_costs_the_log_and_nothing_else(start):
    server = start("--log-file", "/dev/full")
    with server.client() as client:
        ping = client.send("ping")
        assert wait_for(client, lambda message: message.id == ping).type == "pong"
