"""The example in examples/client.py: as short as promised, and it works."""

from __future__ import annotations

import shutil
import subprocess
import sys

from server_process import PATIENCE_S, PHOTO, ROOT

from backend.face_model.registry import get_model

EXAMPLE = ROOT / "examples" / "client.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)


def test_the_example_is_under_60_lines():
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 60


def test_the_example_makes_a_head(shared, tmp_path):
    photo = shutil.copy(PHOTO, tmp_path / "me.jpg")
    answer = run(photo, shared.file)
    assert answer.returncode == 0, answer.stderr
    assert "100%" in answer.stdout
    lines = (tmp_path / "me_head1.obj").read_text("ascii").splitlines()
    model = get_model()
    assert sum(line.startswith("v ") for line in lines) == len(model.mean)
    assert sum(line.startswith("f ") for line in lines) == len(model.faces)
    assert (tmp_path / "me_head1.ppm").stat().st_size == 1024 * 1024 * 3 + len("P6 1024 1024 255\n")


def test_the_example_says_what_is_wrong(shared, tmp_path):
    assert "start the backend" in run(PHOTO, tmp_path / "none.json").stderr
    (tmp_path / "text.jpg").write_text("no photo")
    answer = run(tmp_path / "text.jpg", shared.file)
    assert answer.returncode == 1 and "not a photo" in answer.stderr
