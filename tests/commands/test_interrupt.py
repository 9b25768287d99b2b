"""Ctrl-C in a real process: exit code 130, one line, no half-written folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_photos import EXAMPLE

from backend.commands.console import Interrupt, run_guarded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT that can be sent to one process")

# A process that has not got there by then never will.
PATIENCE_S = 120


def start(out: Path, count: int, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "backend.cli", "reconstruct", *[str(EXAMPLE)] * count]
    command += ["--out", str(out), "--texture", "none", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(process: subprocess.Popen, happened) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def interrupt(process: subprocess.Popen, number: int = signal.SIGINT) -> str:
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    return said


def test_while_writing(tmp_path):
    """Forty heads are asked for; the signal comes once the first is there."""
    process = start(tmp_path, 40)
    wait_until(process, lambda: (tmp_path / "astronaut").exists())
    said = interrupt(process)
    assert process.returncode == 130
    assert len(said.splitlines()) == 1 and "Interrupted" in said
    folders = sorted(tmp_path.iterdir())
    assert 1 <= len(folders) < 40
    whole = sorted(path.name for path in (tmp_path / "astronaut").iterdir())
    for folder in folders:
        assert not folder.name.startswith(".")
        assert sorted(path.name for path in folder.iterdir()) == whole


def test_while_loading(tmp_path):
    """The output folder is made before PyTorch is imported, so the signal lands in imports.

    Unless this process was held up meanwhile: forty heads keep the other one busy until the signal comes.
    """
    process = start(tmp_path / "out", 40)
    wait_until(process, (tmp_path / "out").exists)
    said = interrupt(process)
    assert process.returncode == 130
    assert len(said.splitlines()) == 1 and "Traceback" not in said
    assert not any(folder.name.startswith(".") for folder in (tmp_path / "out").iterdir())


def test_request_to_end(tmp_path):
    """SIGTERM cleans up in the same way and reports its own number."""
    process = start(tmp_path, 40, "--formats", "json")
    wait_until(process, lambda: (tmp_path / "astronaut").exists())
    interrupt(process, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_closed_pipe_is_no_error_for_the_reader(tmp_path):
    command = [sys.executable, "-m", "backend.cli", "models", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=PATIENCE_S)


def test_an_error_caused_by_the_signal_counts_as_the_signal(capsys):
    """C libraries turn KeyboardInterrupt into errors of their own."""

    def work(interrupt: Interrupt) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None
        return 0

    assert run_guarded(work) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_a_signal_inside_executed_text_gives_the_exit_code(tmp_path):
    """Imports execute strings, and from those Python would end ``python -m`` by the signal instead."""
    (tmp_path / "interrupted.py").write_text(
        "import signal, sys\n"
        "from backend.commands.console import run_guarded\n"
        "sys.exit(run_guarded(lambda interrupt: exec('signal.raise_signal(signal.SIGINT)') or 0))\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 130, ended.stderr
    assert "Interrupted" in ended.stderr


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_guarded(lambda interrupt: 0)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
