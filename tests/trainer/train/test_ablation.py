"""The ablation: one start, the same people and steps, and only the losses between views differ."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from training_runs import TINY

from backend import cli
from backend.errors import Cancelled, TrainingError
from trainer.train import ablation, ablation_report
from trainer.train.ablation import VARIANTS, Row, start_config, variant_config
from trainer.train.checkpoint import checkpoint_path, load_checkpoint
from trainer.train.config import AblationConfig, config_text
from trainer.train.loop import Options
from trainer.train.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = replace(
    TINY,
    # Every loss between views has something to compare.
    data=replace(TINY.data, one_moment=1.0, one_sitting=0.0),
    run=replace(TINY.run, steps=2, checkpoint_every=1),
    ablation=AblationConfig(start_steps=2, seeds=1),
)


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    """An ablation that is stopped in the middle of a run, and goes on."""
    out = tmp_path_factory.mktemp("ablation")
    # Asked before each step and at each run's end: two steps of the start, then one of the first variant.
    asked = iter([False] * 4 + [True] * 99)
    with pytest.raises(Cancelled, match="the same command goes on"):
        ablation.run(CONFIG, model, out, ALONE, Options(cancel=lambda: next(asked)))
    assert load_checkpoint(checkpoint_path(out / "single-0", 1)).step == 1
    shown: list[float] = []
    options = Options(progress=lambda part, text: shown.append(part))
    return out, ablation.run(CONFIG, model, out, ALONE, options), shown


def test_every_variant_is_measured(done):
    out, rows, shown = done
    assert [row.name for row in rows] == ["start", *(variant.name for variant in VARIANTS)]
    stored = json.loads((out / "ablation.json").read_text("utf-8"))
    assert [row["validation"] for row in stored["rows"]] == [row.figures for row in rows]
    text = (out / "ablation.md").read_text("utf-8")
    assert all(f"| {variant.title} |" in text for variant in VARIANTS) and "Not finished" not in text
    assert shown == sorted(shown) and shown[-1] == pytest.approx(1.0)


def test_all_start_alike_and_end_apart(done):
    out, _, _ = done
    states = [load_checkpoint(checkpoint_path(out / f"{variant.name}-0", 2)) for variant in VARIANTS]
    assert all(state.figures["0"]["shape_mm"] == states[0].figures["0"]["shape_mm"] for state in states)
    weights = [state.network["answer.weight"] for state in states]
    assert not any(torch.equal(one, other) for i, one in enumerate(weights) for other in weights[:i])
    start = load_checkpoint(checkpoint_path(out / "start-0", 2))
    assert start.config.losses.pixel == 0 and start.config.data.seed != states[0].config.data.seed
    assert len({state.config.data.seed for state in states}) == 1


def test_a_finished_ablation_is_not_done_again(done, model, monkeypatch):
    out, rows, _ = done
    monkeypatch.setattr(ablation, "train", lambda *arguments: pytest.fail("trained again"))
    assert ablation.run(CONFIG, model, out, ALONE, Options()) == rows


def test_another_configuration_is_refused(done, model, tmp_path):
    out, _, _ = done
    longer = replace(CONFIG, run=replace(CONFIG.run, steps=3))
    with pytest.raises(TrainingError, match=r'"run.steps" was 2 and is now 3; name another folder'):
        ablation.run(longer, model, out, ALONE, Options())
    other = replace(CONFIG, losses=replace(CONFIG.losses, landmarks=0.1))
    with pytest.raises(TrainingError, match=r'"losses.landmarks" was 0.002 and is now 0.1'):
        ablation.run(other, model, out, ALONE, Options())
    nothing = replace(CONFIG, losses=replace(CONFIG.losses, depth=0.0))
    with pytest.raises(TrainingError, match=r'"losses.depth" is 0, so that leaving it out changes nothing'):
        ablation.run(nothing, model, tmp_path, ALONE, Options())
    with pytest.raises(TrainingError, match="holds a training run"):
        ablation.run(CONFIG, model, out / "start-0", ALONE, Options())


def test_time_that_is_up(model, tmp_path):
    assert ablation.run(CONFIG, model, tmp_path, ALONE, Options(minutes=0.0)) == []


def test_variants_differ_in_losses_between_views_alone():
    configs = [variant_config(CONFIG, variant) for variant in VARIANTS]
    plain = [replace(config, losses=CONFIG.losses) for config in configs]
    assert all(config == plain[0] for config in plain)
    on = [(config.losses.pixel > 0, config.losses.depth > 0, config.losses.epipolar > 0) for config in configs]
    assert on[:4] == [(False,) * 3, (True, False, False), (True, True, False), (True,) * 3]
    assert on[5:] == on[1:4] and [config.losses.variant for config in configs[5:]] == ["published"] * 3
    single = start_config(CONFIG).losses
    assert single == configs[0].losses and single.agreement == 0 and single.vertices == CONFIG.losses.vertices


def test_the_report_has_differences_within_repetitions():
    def figures(shape: float) -> dict[str, float]:
        return {"shape_mm": shape, "depth_mm": 2 * shape}

    titles = {"start": "the start", "single": "single views", "pixel": "+ pixel"}
    results = {"single": [figures(1.0), figures(3.0)], "pixel": [figures(0.9), figures(2.7)], "start": []}
    config = replace(CONFIG, ablation=AblationConfig(seeds=2))
    text = ablation_report.text(config, titles, results, "single", ALONE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    shape = 1 + [name for name, _, _ in ablation_report.COLUMNS].index("shape_mm")
    assert [row[shape] for row in rows if row[0] == "single views"] == ["2.000"]
    assert [row[shape] for row in rows if row[0] == "+ pixel"] == ["1.800", "-0.200 ± 0.100"]
    assert "**Not finished:** the start." in text and "2 repetitions" in text
    once = ablation_report.text(config, titles, {"single": [figures(1.0)]}, "single", ALONE)
    assert "Done once" in once and "Difference" not in once


def test_the_command(done, capsys):
    out, rows, _ = done
    (out / "same.toml").write_text(config_text(CONFIG), "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.app(["train", "--ablation", "--config", str(out / "same.toml"), "--out", str(out)], prog_name="mgcface")
    assert not ended.value.code
    assert "| + pixel + depth + epipolar |" in capsys.readouterr().out
    assert isinstance(rows[0], Row)
