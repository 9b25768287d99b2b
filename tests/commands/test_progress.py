"""Progress bars: for people at a terminal, on stderr, and right to the end when photos fail."""

from __future__ import annotations

import pytest
from bad_photos import EXAMPLE, no_face
from rich.text import Text

from backend.commands import progress


@pytest.fixture
def bars(monkeypatch) -> list:
    """Pretends that stderr is a terminal and keeps the bars that are shown."""
    made = []
    make = progress.bar

    def keep():
        made.append(make())
        return made[-1]

    monkeypatch.setattr(progress, "somebody_looks", lambda: True)
    monkeypatch.setattr(progress, "bar", keep)
    return made


def test_nothing_is_shown_where_nobody_looks(capfd):
    with progress.photo_bar(["a"]) as photos, progress.fraction_bar("b") as fraction:
        assert photos is None and fraction is None
    assert capfd.readouterr() == ("", "")


def test_quiet_shows_nothing_at_a_terminal(bars):
    with progress.photo_bar(["a"], quiet=True) as photos, progress.fraction_bar("b", quiet=True) as fraction:
        assert photos is None and fraction is None
    assert bars == []


def test_photos_add_up_and_never_go_back(bars):
    with progress.photo_bar(["a.jpg", "b[1].jpg"]) as show:
        show(0, "detect", 0.25)
        show(1, "detect", 0.5)
        show(0, "decode", 0.1)
        (task,) = bars[0].tasks
        assert (task.completed, task.total) == (0.75, 2.0)
        show(1, "fit", 0.75)
        assert task.completed == 1.0
        # File names are no markup.
        assert Text.from_markup(task.description).plain == "2/2 b[1].jpg: fit"


def test_fractions(bars):
    with progress.fraction_bar("build") as show:
        show(0.5, "reading")
        assert bars[0].tasks[0].completed == 0.5


def test_the_bar_is_full_when_some_photos_failed(bars, mgcface, warm, tmp_path, capfd):
    no_face(tmp_path / "noise.png")
    photos = (tmp_path / "noise.png", EXAMPLE, tmp_path / "gone.jpg")
    assert mgcface("reconstruct", *photos, "--out", tmp_path / "out", "--formats", "json") == 3
    (task,) = bars[0].tasks
    assert task.completed == task.total == 3.0
    assert "No face" in capfd.readouterr().err
