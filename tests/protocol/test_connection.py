"""The connection file: its owner's alone, whole or not there, and a sentence for all that can be wrong with it."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import asdict, replace

import pytest

from backend.protocol.connection import Connection, new_key_pair, prove_local, read_connection, write_connection
from backend.protocol.wire import ProtocolError

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")


@pytest.fixture
def connection() -> Connection:
    server, _ = new_key_pair()
    public, secret = new_key_pair()
    return Connection("tcp://127.0.0.1:5555", server, public, secret, pid=os.getpid(), version="0.1.0")


def test_what_is_written_is_read(tmp_path, connection):
    write_connection(tmp_path / "server.json", connection)
    assert read_connection(tmp_path / "server.json") == connection
    assert [path.name for path in tmp_path.iterdir()] == ["server.json"]


def test_keys_are_new_every_time():
    assert len({key for _ in range(20) for key in new_key_pair()}) == 40


@on_posix
def test_only_the_owner_can_read_it(tmp_path, connection):
    mask = os.umask(0)
    try:
        write_connection(tmp_path / "server.json", connection)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "server.json").stat().st_mode) == 0o600


@on_posix
def test_a_file_that_others_can_read_is_refused(tmp_path, connection):
    write_connection(tmp_path / "server.json", connection)
    (tmp_path / "server.json").chmod(0o644)
    with pytest.raises(ProtocolError, match="chmod 600"):
        read_connection(tmp_path / "server.json")


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ProtocolError, match="start the backend"):
        read_connection(tmp_path / "server.json")
    with pytest.raises(ProtocolError, match="not a connection file"):
        read_connection(tmp_path)


# A user that owns nothing, by custom.
NOBODY = 65534


@on_posix
def test_an_unreadable_file_says_what_to_do(tmp_path, connection):
    write_connection(tmp_path / "server.json", connection)
    (tmp_path / "server.json").chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ProtocolError, match="permissions"):
            read_connection(tmp_path / "server.json")
    finally:
        os.seteuid(user)


WRONG = {
    "empty": "",
    "not JSON": "hello",
    "a list": "[]",
    "binary": "\0\x01\x02",
    "no address": {"address": None},
    "address elsewhere": {"address": "file:///etc/passwd"},
    "address with a blank": {"address": "tcp://127.0.0.1:5 5"},
    "short key": {"server_public_key": "abc"},
    "key of another kind": {"client_secret_key": 7},
    "no key": {"client_public_key": None},
    "pid of another kind": {"pid": "1"},
    "proof of another kind": {"local_proof": 1},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_damaged_file_says_what_to_do(tmp_path, connection, change):
    path = tmp_path / "server.json"
    text = change if isinstance(change, str) else json.dumps({**asdict(connection), **change})
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ProtocolError, match="start the backend again") as caught:
        read_connection(path)
    assert caught.value.code == "connection"


@pytest.mark.parametrize("protocol", [0, 2, "1", None])
def test_another_protocol_says_what_to_do(tmp_path, connection, protocol):
    write_connection(tmp_path / "server.json", replace(connection, protocol=protocol))
    with pytest.raises(ProtocolError, match="update") as caught:
        read_connection(tmp_path / "server.json")
    assert caught.value.code == "version"


def test_what_a_newer_version_adds_is_ignored(tmp_path, connection):
    path = tmp_path / "server.json"
    path.write_text(json.dumps({**asdict(connection), "colour": "blue"}))
    path.chmod(0o600)
    assert read_connection(path) == connection


def test_the_proof_is_the_content_of_a_file(tmp_path, connection):
    proof = tmp_path / "server.json.proof"
    proof.write_text("ab" * 32)
    assert prove_local(replace(connection, local_proof=str(proof))) == "ab" * 32
    assert prove_local(replace(connection, local_proof=str(tmp_path / "none"))) == ""
    assert prove_local(connection) == ""
