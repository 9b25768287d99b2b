"""What docs/training.md shows in Python runs as it stands, after a training."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import torch
from training_runs import TINY

from trainer.train.config import LossConfig
from trainer.train.loop import Options, train
from trainer.train.processes import Processes
from trainer.train.validation import FIGURES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/training.md").read_text("utf-8")


def test_the_python_of_the_page_runs(model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out/training"
    train(replace(TINY, run=replace(TINY.run, steps=1)), model, out, Processes(0, 1, torch.device("cpu")), Options())
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/astronaut.jpg").write_bytes((ROOT / "examples/astronaut.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    use, judge = ({} for _ in blocks)
    exec(blocks[0], use)
    assert use["pixels"].shape == (model.vertex_count, 2)
    # One step teaches nothing, so the mean face lies about where the face is.
    assert 100 < use["pixels"][:, 0].mean() < 400 and 0 < use["pixels"][:, 1].mean() < 300
    exec(blocks[1], judge)
    said = capsys.readouterr().out
    assert (
        all(f"'{name}'" in said for name in FIGURES if not name.startswith("rotation_"))
        and "'rotation_degrees'" in said
    )
    assert [len(batch.photos) for batch in judge["people"]] == [8, 4]


def test_the_page_names_every_figure_and_loss():
    named = [name for name in FIGURES if not re.fullmatch(r"rotation_\d+_\d+", name)]
    named += [field.name for field in fields(LossConfig) if field.type == "float"]
    assert len(named) > 15
    missing = [name for name in named if f"`{name}`" not in PAGE]
    assert not missing
