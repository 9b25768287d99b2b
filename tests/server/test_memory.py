"""Memory that runs out, for real: in a process that may have only so much of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image
from server_process import PATIENCE_S, PHOTO, ROOT

# Two photos of 60 megapixels do not fit at once where one does.
LIMITED = """
import resource, sys
from backend.server.engine import Engine
from backend.server.item import Item
from backend.server.jobs import DEFAULT_OPTIONS

class Report:
    def __init__(self): self.said = []
    def progress(self, *_): pass
    def face(self, item, *_): self.said.append(f"face {item.name}")
    def photo_failed(self, item, code, message): self.said.append(f"{code} {item.name}")
    def photo_done(self, *_): pass
    def refused(self, code, message): self.said.append(f"refused {message}")
    def note(self, text): self.said.append(f"note {text}")
    def stopped(self): return False

def run(*paths):
    report = Report()
    engine.run([Item("c", "j", i, p.split("/")[-1], p) for i, p in enumerate(paths)], options, report)
    return report.said

engine, options = Engine(sys.argv[1]), {**DEFAULT_OPTIONS, "texture_size": 0}
large, photo = sys.argv[2:]
print(run(large, photo))
if sys.argv[1] == "cpu":
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmPeak"))
    # One photo alone needs 80 to 110 MB more, three large ones at once more than 200.
    resource.setrlimit(resource.RLIMIT_AS, ((peak << 10) + (180 << 20), -1))
else:
    import torch
    hold = torch.empty(torch.cuda.mem_get_info()[0] - (8 << 20), dtype=torch.uint8, device="cuda")
    engine.forget()
print(run(large, large, large, photo))
print(run(photo))
"""


def lines_of(device: str, tmp_path) -> list[list[str]]:
    Image.new("RGB", (10000, 6000), (90, 120, 150)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", LIMITED, device, str(tmp_path / "large.png"), str(PHOTO)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=2 * PATIENCE_S)
    assert answer.returncode == 0, answer.stderr
    return [eval_list(line) for line in answer.stdout.splitlines() if line.startswith("[")]


def eval_list(line: str) -> list[str]:
    import ast

    return ast.literal_eval(line)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of Linux")
def test_what_does_not_fit_at_once_is_computed_photo_by_photo(tmp_path):
    before, limited, after = lines_of("cpu", tmp_path)
    assert before == ["no_face large.png", "face astronaut.jpg"]
    assert "note Something was too much at once; going on photo by photo." in limited
    assert "face astronaut.jpg" in limited and len(limited) == 5
    assert after == ["face astronaut.jpg"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_graphics_card_is_replaced_by_the_processor(tmp_path):
    _, limited, after = lines_of("cuda", tmp_path)
    assert any("processor" in line for line in limited) and "face astronaut.jpg" in limited
    assert "face astronaut.jpg" in after
