"""Training runs: they repeat, go on as if never stopped, say early what went wrong, and agree among processes."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import TINY

from backend import cli
from backend.errors import Cancelled, DependencyError, OutputError, TrainingError
from backend.face_model.albedo_file import get_albedo
from backend.network.encoder import FaceEncoder
from backend.network.weights_file import read_info
from trainer.train import loop
from trainer.train.board import Board, dotted
from trainer.train.checkpoint import checkpoint_path, checkpoints, load_checkpoint
from trainer.train.config import Config, OptimiserConfig, RunConfig, config_text, parse_config, read_config
from trainer.train.loop import LOG_FILE, Ended, Options, Run, rate_at, train
from trainer.train.pack import pack
from trainer.train.processes import Processes, joined
from trainer.train.smoke import check
from trainer.train.start import chosen_checkpoint, chosen_model

ROOT = Path(__file__).parents[3]
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> tuple[Path, Ended]:
    """Eight steps without a stop; checkpoints after four and eight."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(TINY, model, out, ALONE, Options())


def same_state(first: Path, second: Path) -> bool:
    """Every tensor of two checkpoints, bit for bit."""
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys() and any(name.startswith("second.") for name in one)
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# --- the same result --------------------------------------------------------------------------------------


def test_four_steps_and_four_more_are_eight(model, whole, tmp_path):
    """Bit for bit, from the checkpoint of a run that was stopped."""
    stopped = train(TINY, model, tmp_path, ALONE, Options(stop_at=4))
    assert stopped.step == 4 and checkpoints(tmp_path) == [checkpoint_path(tmp_path, 4)]
    train(TINY, model, tmp_path, ALONE, Options(resume=checkpoint_path(tmp_path, 4)))
    assert same_state(checkpoint_path(tmp_path, 8), checkpoint_path(whole[0], 8))
    assert not same_state(checkpoint_path(tmp_path, 4), checkpoint_path(tmp_path, 8))
    assert (tmp_path / "encoder.safetensors").read_bytes() == (whole[0] / "encoder.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_any_checkpoint_will_do_and_the_log_forgets_what_is_done_again(model, whole, tmp_path):
    """From a checkpoint that lies between others, in another folder."""
    train(TINY, model, tmp_path, ALONE, Options(resume=checkpoint_path(whole[0], 4), stop_at=6))
    train(TINY, model, tmp_path, ALONE, Options(resume=checkpoint_path(whole[0], 4)))
    assert same_state(checkpoint_path(tmp_path, 8), checkpoint_path(whole[0], 8))
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert steps == [5, 6, 7, 8, 8]


def test_what_comes_out_speaks(model, whole):
    """The averaged weights, which are not those of the last step, with where they come from."""
    out, ended = whole
    assert ended.step == 8 and set(ended.figures) == {"0", "8"}
    encoder = FaceEncoder(ended.weights, model)
    state = load_checkpoint(checkpoint_path(out, 8))
    mine = encoder.network.state_dict()["answer.weight"]
    np.testing.assert_allclose(mine, state.average["answer.weight"], atol=1e-3)
    assert not torch.equal(state.average["answer.weight"], state.network["answer.weight"])
    info = read_info(ended.weights).info
    skins = get_albedo("open-head").info
    assert info.licence == f"{model.info.licence} and {skins.licence}" and info.commercial
    assert model.info.attribution in info.attribution and skins.attribution in info.attribution
    assert encoder.layout.albedo == 50 and len(info.extra["albedo"]) == 8
    assert info.extra["training_steps"] == 8 and parse_config(info.extra["training_config"], "it") == TINY


def test_the_average_follows_the_weights(model, tmp_path):
    run = Run(TINY, model, tmp_path, ALONE, Options())
    before = run.average["answer.bias"].clone()
    run._one_step()
    share = min(TINY.optimiser.average, 2.0 / 11.0)
    expected = share * before + (1.0 - share) * run.backbone.state_dict()["answer.bias"]
    torch.testing.assert_close(run.average["answer.bias"], expected)


def test_bfloat16_stays_in_the_network(model, tmp_path, monkeypatch):
    """Half precision changes what the network says, and losses get whole numbers."""
    half = replace(TINY, optimiser=replace(TINY.optimiser, precision="bfloat16"))
    kinds = []
    known = loop.terms
    monkeypatch.setattr(loop, "terms", lambda said, *rest: kinds.append(said.R.dtype) or known(said, *rest))
    runs = [Run(config, model, tmp_path / name, ALONE, Options()) for name, config in (("half", half), ("all", TINY))]
    losses = [run._one_step()["loss"] for run in runs]
    assert kinds == [torch.float32] * 2
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_rate_rises_and_falls():
    run, optimiser = RunConfig(steps=110), OptimiserConfig(rate=2.0, last_rate=0.1, warmup=10)
    rates = [rate_at(step, run, optimiser) for step in range(111)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) and rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(2.0 * (0.1 + 0.9 / 2)) and rates[110] == pytest.approx(0.2)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[10:]))


def test_a_run_may_start_from_the_weights_of_another(model, whole, tmp_path):
    """From the averaged ones, with a new optimiser; and it goes on from its own checkpoints."""
    before = load_checkpoint(checkpoint_path(whole[0], 8))
    run = Run(TINY, model, tmp_path / "new", ALONE, Options(start=checkpoint_path(whole[0], 8)))
    assert run.step == 0 and not run.optimiser.state and not run.figures
    assert all(torch.equal(tensor, before.average[name]) for name, tensor in run.backbone.state_dict().items())
    later = Options(start=checkpoint_path(whole[0], 8), resume=checkpoint_path(whole[0], 4))
    assert torch.equal(
        Run(TINY, model, tmp_path / "later", ALONE, later).backbone.state_dict()["answer.weight"],
        load_checkpoint(checkpoint_path(whole[0], 4)).network["answer.weight"],
    )
    bent = model.replaced(identity=model.identity * np.float32(1.01))
    with pytest.raises(TrainingError, match="another face model"):
        Run(TINY, bent, tmp_path / "bent", ALONE, Options(start=checkpoint_path(whole[0], 8)))


# --- what goes wrong --------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_told_at_once(model, tmp_path, monkeypatch):
    known, calls = loop.terms, []

    def broken(*arguments):
        found = known(*arguments)
        calls.append(1)
        return {**found, "pixel": found["pixel"] * math.nan} if len(calls) == 3 else found

    monkeypatch.setattr(loop, "terms", broken)
    often = replace(TINY, run=replace(TINY.run, checkpoint_every=1))
    with pytest.raises(TrainingError, match=r'At step 3 "pixel" became nan; lower optimiser.rate') as told:
        train(often, model, tmp_path, ALONE, Options())
    assert str(told.value).count(".") <= 2
    assert checkpoints(tmp_path)[-1] == checkpoint_path(tmp_path, 2), "the last good state is kept"
    assert all(torch.isfinite(tensor).all() for tensor in load_file(checkpoint_path(tmp_path, 2)).values())


def test_a_stop_writes_a_checkpoint(model, tmp_path):
    asked = iter([False, False, *[True] * 9])
    with pytest.raises(Cancelled, match="after 2 steps; go on with --resume"):
        train(TINY, model, tmp_path, ALONE, Options(cancel=lambda: next(asked)))
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 2)]


def test_time_that_is_up_writes_a_checkpoint(model, tmp_path):
    ended = train(TINY, model, tmp_path, ALONE, Options(minutes=0.0))
    assert ended.step == 0 and checkpoints(tmp_path) == [checkpoint_path(tmp_path, 0)]


@pytest.mark.parametrize(
    ("section", "change", "sentence"),
    [
        ("optimiser", {"batch": 3}, '"optimiser.batch" was 2 and is now 3'),
        ("losses", {"depth": 0.2}, '"losses.depth" was 0.1 and is now 0.2'),
        ("data", {"seed": 2}, '"data.seed" was 1 and is now 2'),
        ("run", {"steps": 4}, "has done all 4 steps"),
    ],
)
def test_another_run_is_not_resumed(model, whole, tmp_path, section, change, sentence):
    other = replace(TINY, **{section: replace(getattr(TINY, section), **change)})
    with pytest.raises(TrainingError, match=re.escape(sentence)):
        train(other, model, tmp_path, ALONE, Options(resume=checkpoint_path(whole[0], 4)))


def test_another_face_model_or_number_of_processes_is_not_resumed(model, whole, tmp_path):
    checkpoint = checkpoint_path(whole[0], 4)
    bent = model.replaced(identity=model.identity * np.float32(1.01))
    with pytest.raises(TrainingError, match="another state of the face model"):
        train(TINY, bent, tmp_path, ALONE, Options(resume=checkpoint))
    with pytest.raises(TrainingError, match="by 1 processes and this run has 2"):
        Run(TINY, model, tmp_path, Processes(1, 2, torch.device("cpu")), Options(resume=checkpoint))


def test_what_is_no_checkpoint_is_refused(whole, tmp_path):
    (tmp_path / "step-00000001.safetensors").write_bytes(b"nothing")
    for path in (tmp_path / "step-00000001.safetensors", whole[0] / "encoder.safetensors", tmp_path / "missing"):
        with pytest.raises(TrainingError, match="is no checkpoint of this version or is damaged"):
            load_checkpoint(path)


def test_old_checkpoints_go(model, tmp_path):
    few = replace(TINY, run=replace(TINY.run, steps=4, checkpoint_every=1, keep=2))
    train(few, model, tmp_path, ALONE, Options())
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 3), checkpoint_path(tmp_path, 4)]


# --- configuration ----------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_its_text(tmp_path):
    for number, config in enumerate((TINY, Config())):
        path = tmp_path / f"{number}.toml"
        path.write_text(config_text(config), "utf-8")
        assert read_config(path) == config


def test_the_recipes_are_configurations():
    recipes = sorted((ROOT / "trainer/train/recipes").glob("*.toml"))
    names = ["ablation-cpu.toml", "ablation-gpu.toml", "cpu.toml", "gpu.toml", "photos.toml"]
    assert [recipe.name for recipe in recipes] == names
    # The tiny network gains nothing from half the digits.
    halved = ["ablation-cpu" not in name for name in names]
    assert [read_config(recipe).optimiser.precision == "bfloat16" for recipe in recipes] == halved


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[network]\nsize = 3", '"network.size" of .* is 3 where str is needed'),
        ("[network]\nsize = 'huge'", '"network.size" of .* is "huge"; choose from small, compact, tiny'),
        ("[optimiser]\nbatch = 0", '"optimiser.batch" of .* is 0; it must be at least 1'),
        ("[optimiser]\nbatch = 1.5", '"optimiser.batch" of .* is 1.5 where int is needed'),
        ("[optimiser]\nrate = -1", '"optimiser.rate" of .* is -1.0; it must not be negative'),
        ("[optimiser]\nrate = nan", '"optimiser.rate" of .* is nan; it must not be negative'),
        ("[optimiser]\naverage = 1", '"optimiser.average" of .* must be below 1'),
        ("[losses]\ndeph = 1", 'unknown entry "losses.deph"'),
        ("[loss]\ndepth = 1", 'unknown section "loss"'),
        ("[data]\none_moment = 0.8\none_sitting = 0.4", "more than 1 together"),
        ("[data", "is not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "wrong.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(TrainingError, match=sentence) as told:
        read_config(path)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


# --- several processes ------------------------------------------------------------------------------------


def test_two_processes_have_one_network(model, tmp_path):
    """With gloo on the CPU, as torchrun starts them: the same weights on both, from different people."""
    worker = Path(__file__).with_name("ddp_worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(worker.parent)])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    answer = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1))
    parameters = [name for name in first if "running" not in name and "num_batches" not in name]
    assert len(parameters) > 30 and all(torch.equal(first[name], second[name]) for name in parameters)
    # Each process normalises by its own pictures, which shows that they are different ones.
    assert not torch.equal(first["stem.norm.running_mean"], second["stem.norm.running_mean"])
    alone = Run(TINY, model, tmp_path / "alone", ALONE, Options())
    alone._one_step()
    alone._one_step()
    assert not torch.equal(alone.backbone.state_dict()["answer.weight"], first["answer.weight"])
    assert load_checkpoint(checkpoint_path(tmp_path, 2)).processes == 2


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="PyTorch sees no GPU"), joined("cuda"):
        pass
    with joined("auto") as processes:
        assert processes.device.type == "cpu" and processes.first


# --- TensorBoard ------------------------------------------------------------------------------------------


def test_missing_tensorboard_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match="TensorBoard is not installed"):
        Board(tmp_path, wanted=True)
    Board(tmp_path, wanted=False).scalars("training", {"loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_losses_figures_and_pictures(model, tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((Path(folder).name, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def add_images(self, name, pictures, step, dataformats):
            assert dataformats == "NHWC" and pictures.dtype == torch.uint8
            written.append((name, tuple(pictures.shape)))

        def close(self):
            written.append("closed")

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(TINY, model, tmp_path, ALONE, Options(stop_at=1, tensorboard=True))
    assert ("training/loss", 1) in written and ("validation/shape_mm", 0) in written
    assert ("held out", (6, 64, 64, 3)) in written
    assert written[0] == ("board", 0) and written[-1] == "closed"


def test_dots_are_where_the_points_are():
    pictures = dotted(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.tensor([[[3.0, 5.0], [-4.0, 2.0]]]), (9, 0, 0))
    assert pictures[0, :, :, 0].nonzero().tolist() == [[4, 2], [4, 3], [5, 2], [5, 3]]


# --- the command ------------------------------------------------------------------------------------------


def mgcface(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.app(["train", *map(str, arguments)], prog_name="mgcface")
    return int(ended.value.code or 0)


def tiny_config(folder: Path, steps: int = 3) -> Path:
    path = folder / "tiny.toml"
    path.write_text(config_text(replace(TINY, run=replace(TINY.run, steps=steps))), "utf-8")
    return path


def test_the_command_trains_and_goes_on(tmp_path, capsys):
    config, out = tiny_config(tmp_path), tmp_path / "run"
    assert mgcface("--config", config, "--out", out, "--resume", "--minutes", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 0
    assert mgcface("--out", out) == 1
    assert "holds a run already; add --resume" in capsys.readouterr().err
    # The configuration is that of the checkpoint.
    assert mgcface("--out", out, "--resume", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "3 of 3 steps" in said and "landmarks_percent" in said and "pictures a second" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--smoke", "--resume"], "leave out --resume"),
        (["--smoke", "--config", "a.toml"], "leave out --config"),
        (["--smoke", "--pack", "a"], "two different things"),
        (["--pack", "a", "--minutes", "3"], "leave out --minutes"),
        (["--resume", "--checkpoint", "a"], "leave one out"),
        (["--ablation", "--checkpoint", "a"], "leave out --checkpoint"),
        (["--ablation", "--pack", "a"], "leave out --pack"),
        (["--ablation", "--smoke"], "leave out --smoke"),
    ],
)
def test_options_that_contradict_each_other(options, sentence, capsys):
    assert mgcface(*options) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_is_not_overwritten(whole, tmp_path):
    assert chosen_checkpoint(tmp_path / "new", False, None) is None
    assert chosen_checkpoint(tmp_path / "new", True, None) is None
    assert chosen_checkpoint(whole[0], True, None) == checkpoint_path(whole[0], 8)
    assert chosen_checkpoint(whole[0], True, tmp_path) == tmp_path
    with pytest.raises(TrainingError, match="holds a run already"):
        chosen_checkpoint(whole[0], False, None)


def test_a_smoke_test_that_learned_nothing_fails(model, whole):
    ended = whole[1]
    figures = {"supervised": 4.0, "landmarks_percent": 10.0, "rotation_degrees": 30.0}
    better = {"supervised": 2.0, "landmarks_percent": 6.0, "rotation_degrees": 20.0}
    check(replace(ended, figures={"0": figures, "8": better}), model)
    for name in figures:
        with pytest.raises(TrainingError, match=f'"{name}" went from'):
            check(replace(ended, figures={"0": figures, "8": {**better, name: figures[name]}}), model)


# --- packs ------------------------------------------------------------------------------------------------


def test_a_pack_trains_by_itself(tmp_path, capsys):
    """Its own code, its own model, one command."""
    folder, config = tmp_path / "pack", tmp_path / "tiny.toml"
    # Without the losses that draw predicted heads: a copy of the code compiles its kernels anew, and those most.
    single = replace(TINY, losses=replace(TINY.losses, pixel=0.0, depth=0.0, epipolar=0.0))
    config.write_text(config_text(replace(single, run=replace(TINY.run, steps=1))), "utf-8")
    assert mgcface("--config", config, "--pack", folder) == 0
    megabytes = float(re.search(r"([\d.]+) MB", capsys.readouterr().out).group(1))
    assert megabytes <= 60
    script = folder / "train.sh"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = ["sh", str(script), "--device", "cpu", "--json"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["weights"] == "run/encoder.safetensors"
    assert (folder / "run/encoder.safetensors").is_file()
    assert chosen_model(str(folder / read_config(folder / "config.toml").data.model)).info.name == "open-head"


def test_a_model_from_elsewhere_is_packed(model, tmp_path):
    from backend.face_model.file_format import save_model

    small = model.replaced(identity=model.identity[:2], expression=model.expression[:2])
    small = small.replaced(expression_names=model.expression_names[:2])
    save_model(small, tmp_path / "mine.safetensors")
    config = replace(TINY, data=replace(TINY.data, model=str(tmp_path / "mine.safetensors")))
    pack(config, tmp_path / "pack")
    packed = read_config(tmp_path / "pack/config.toml")
    assert packed.data.model == "models/mine.safetensors"
    assert len(chosen_model(str(tmp_path / "pack" / packed.data.model)).identity) == 2
    with pytest.raises(OutputError, match="is there already"):
        pack(config, tmp_path / "pack")
