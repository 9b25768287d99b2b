"""Servers for tests: a warm one that they share, and cold ones of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import Running

from backend.protocol.client import Client


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One warm server for all tests of a process that leave it well."""
    server = Running(tmp_path_factory.mktemp("server"), "--device", "cpu")
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()


@pytest.fixture
def client(shared: Running) -> Iterator[Client]:
    with shared.client() as client:
        yield client


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers of a test's own."""
    servers: list[Running] = []

    def start(*arguments: str, folder: Path = tmp_path) -> Running:
        servers.append(Running(folder, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.end()
