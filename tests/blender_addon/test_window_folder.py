"""scripts/blender_window.py deletes what it made and nothing else, and says in one sentence what is missing."""

from __future__ import annotations

import os
import sys

import pytest
from screen import blender_window


@pytest.fixture
def refusal(capsys):
    """A function: the one sentence that a command ends with."""

    def run(*arguments: str) -> str:
        assert blender_window.main(list(arguments)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_a_folder_that_was_not_made_here_is_left_alone(tmp_path, refusal):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "was not made here" in refusal("--dir", str(tmp_path), "--remove")
    assert (tmp_path / "thesis.txt").exists()


def test_a_link_to_a_folder_is_left_alone(tmp_path, refusal):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / blender_window.MARK).write_text(blender_window.UNFINISHED)
    (tmp_path / "link").symlink_to("real")
    assert "was not made here" in refusal("--dir", str(tmp_path / "link"), "--remove")
    assert (tmp_path / "real").exists()


@pytest.mark.skipif(os.name == "nt", reason="made on Linux only")
def test_an_unfinished_one_is_removed_and_nothing_that_it_links_to(tmp_path):
    place, kept = tmp_path / "window", tmp_path / "kept"
    for folder in (place, kept):
        folder.mkdir()
        (folder / "file").write_text("text")
    (place / "link").symlink_to(kept)
    (place / blender_window.MARK).write_text(blender_window.UNFINISHED)
    assert not blender_window.is_complete(place)
    assert blender_window.main(["--dir", str(place), "--remove"]) == 0
    assert not place.exists() and (kept / "file").exists()
    assert blender_window.main(["--dir", str(place), "--remove"]) == 0, "nothing to do is no error"


def test_without_root_it_says_so_and_makes_nothing(tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(blender_window.sys, "platform", "linux")
    monkeypatch.setattr(blender_window.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(blender_window.os, "geteuid", lambda: 1000, raising=False)
    assert "needs root" in refusal("--dir", str(tmp_path / "window"))
    assert not (tmp_path / "window").exists()


def test_on_another_system_it_says_so(refusal, monkeypatch):
    monkeypatch.setattr(blender_window.sys, "platform", "darwin")
    assert "Debian and Ubuntu only" in refusal()


def test_a_step_that_fails_shows_its_last_lines_and_one_that_hangs_is_ended(monkeypatch, capsys):
    with pytest.raises(blender_window.SetupError, match=r"^It failed\.$"):
        blender_window.run_quietly([sys.executable, "-c", "print('why'); raise SystemExit(3)"], "It failed.")
    assert capsys.readouterr().err == "why\n"
    monkeypatch.setattr(blender_window, "LIMIT_S", 0.5)
    with pytest.raises(blender_window.SetupError, match="took longer"):
        blender_window.run_quietly([sys.executable, "-c", "import time; time.sleep(60)"], "It failed.")


def test_a_word_too_many_is_answered_with_the_usage(capsys):
    assert blender_window.main(["bookworm"]) == 2
    assert "[trixie|sid]" in capsys.readouterr().err
