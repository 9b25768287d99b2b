"""Samples on disk: what is trained from them is what would have been drawn, in an order that can be found again."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import TINY

from backend import cli
from backend.errors import Cancelled, TrainingError
from trainer.data.draw_shards import AT_ONCE, Drawing, draw_shards, shard_name
from trainer.data.sample_files import array, grey
from trainer.data.shards import MANIFEST_FILE, load_manifest, save_manifest
from trainer.data.stored import StoredFaces, epoch_order
from trainer.data.synthetic import Triplets
from trainer.train.checkpoint import checkpoint_path
from trainer.train.config import config_text
from trainer.train.loop import Options, train
from trainer.train.processes import Processes

ROOT = Path(__file__).parents[3]
ALONE = Processes(0, 1, torch.device("cpu"))
DRAWING = Drawing(64, seed=5, looks=1, supersampling=1, one_moment=0.4, one_sitting=0.3)
TRIPLETS = 19


@pytest.fixture(scope="module")
def shards(head, tmp_path_factory) -> Path:
    """Three shards of 8, 8 and 3 triplets."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.data.draw_shards.PER_SHARD", 8)
        draw_shards(DRAWING, head, folder, TRIPLETS)
    return folder


def assert_same(one: Triplets, other: Triplets) -> None:
    """But for last digits, which depend on where in memory a sum's terms lie: a colour between two may go to either."""
    assert float(((one.photos.int() - other.photos.int()).abs() > 0).float().mean()) < 1e-3
    torch.testing.assert_close(one.skin, other.skin, atol=1.001 / 255, rtol=0)
    for name in ("identity", "expression", "albedo", "light", "R", "place", "log_focal"):
        torch.testing.assert_close(getattr(one.truth, name), getattr(other.truth, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.landmarks["ibug68"], other.landmarks["ibug68"], atol=1e-3, rtol=1e-5)
    assert torch.equal(one.visible["ibug68"], other.visible["ibug68"])
    for name in ("flags", "moved", "one_person", "real"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (
        torch.equal(one.trust["albedo"], other.trust["albedo"])
        and (other.trust.get("light", one.trust["light"]) == 1).all()
    )


def test_what_comes_from_disk_is_what_was_drawn(head, shards, monkeypatch):
    stored, faces = StoredFaces(shards, head, 64, seed=1), DRAWING.faces(head)
    assert len(stored) == TRIPLETS
    monkeypatch.setattr(
        "trainer.data.stored.epoch_order",
        lambda counts, *_: np.concatenate([np.column_stack([[s] * c, np.arange(c)]) for s, c in enumerate(counts)]),
    )
    assert_same(stored.batch(0, AT_ONCE), faces.batch(0, AT_ONCE))
    assert_same(stored.batch(1, AT_ONCE), faces.batch(1, AT_ONCE))


def test_an_epoch_takes_every_triplet_once_in_an_order_of_its_own():
    counts = [5, 1, 7, 4]
    orders = [[tuple(row) for row in epoch_order(counts, 3, epoch).tolist()] for epoch in (0, 1, 0)]
    everything = [(shard, position) for shard, count in enumerate(counts) for position in range(count)]
    assert sorted(orders[0]) == sorted(orders[1]) == everything
    assert orders[0] != orders[1] and orders[0] == orders[2]
    assert orders[0] != [tuple(row) for row in epoch_order(counts, 4, 0).tolist()]


def test_only_a_few_shards_are_read_at_a_time(monkeypatch):
    monkeypatch.setattr("trainer.data.stored.SHUFFLED_TOGETHER", 2)
    order = epoch_order([3] * 6, 1, 0)[:, 0].reshape(3, 6)
    assert sorted(shard for part in order for shard in set(part.tolist())) == list(range(6))


def test_batches_go_on_from_epoch_to_epoch(head, shards):
    """A batch is a function of its number: asked for in any order, and over the border of two epochs."""
    one, other = StoredFaces(shards, head, 64, seed=1), StoredFaces(shards, head, 64, seed=1)
    batches = [one.batch(number, 4) for number in range(6)]
    assert_same(other.batch(4, 4), batches[4])
    assert_same(other.batch(0, 4), batches[0])
    seen = torch.cat([batch.truth.identity[::3] for batch in batches])[:TRIPLETS]
    assert len(torch.unique(seen, dim=0)) == TRIPLETS


def test_another_side_is_resampled(head, shards):
    large, small = (StoredFaces(shards, head, side, seed=1).batch(0, 2) for side in (64, 32))
    assert small.photos.shape == (2, 3, 32, 32, 3) and small.skin.shape == (2, 3, 32, 32)
    torch.testing.assert_close(small.landmarks["ibug68"], large.landmarks["ibug68"] / 2)
    mean = large.photos.float().reshape(2, 3, 32, 2, 32, 2, 3).mean(dim=(3, 5))
    assert float((small.photos.float() - mean).abs().mean()) < 4.0
    assert float(large.skin.mean() - small.skin.mean()) == pytest.approx(0.0, abs=0.01)


def test_any_reader_of_tars_finds_the_samples(shards):
    """The convention of WebDataset: files of a sample follow each other and share what is before the first dot."""
    with tarfile.open(shards / shard_name(1)) as tar:
        names = tar.getnames()
        photos = array(tar.extractfile("00000008.photos.npy").read())
        skin = grey(tar.extractfile("00000008.skin.png").read())
    assert len(names) == 8 * 4 and names[:4] == [
        f"00000008.{part}" for part in ("photos.npy", "skin.png", "truth.npy", "meta.json")
    ]
    assert photos.shape == (3, 64, 64, 3) and skin.shape == (192, 64)


def test_webdataset_reads_them(shards):
    wds = pytest.importorskip("webdataset", reason="needs: pip install webdataset")
    samples = list(wds.WebDataset(str(shards / shard_name(0)), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(8)]
    manifest = load_manifest(shards)
    low, high = manifest.columns["identity"]
    assert samples[0]["truth.npy"][:, low:high].shape == (3, 91)
    assert samples[0]["photos.npy"].dtype == np.uint8 and samples[0]["meta.json"]["flag"] in (0, 1, 2)


# --- drawing ----------------------------------------------------------------------------------------------


def test_drawing_goes_on_after_a_stop_and_gives_the_same_files(head, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.draw_shards.PER_SHARD", 8)
    asked = iter([False, True])
    with pytest.raises(Cancelled):
        draw_shards(DRAWING, head, tmp_path, TRIPLETS, cancel=lambda: next(asked))
    assert [shard.name for shard in load_manifest(tmp_path).shards] == [shard_name(0)]
    drawn = []
    draw_shards(DRAWING, head, tmp_path, TRIPLETS, progress=lambda part, text: drawn.append(text))
    assert drawn == ["16 of 19 triplets", "19 of 19 triplets"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in shards.iterdir()}
    one, other = (StoredFaces(folder, head, 64, seed=1).batch(0, TRIPLETS) for folder in (tmp_path, shards))
    assert_same(one, other)
    with pytest.raises(TrainingError, match="holds other training data already"):
        draw_shards(replace(DRAWING, seed=6), head, tmp_path, TRIPLETS)


def test_the_command_draws_with_several_processes(head, shards, tmp_path, monkeypatch):
    """The same first eight triplets as one process draws."""
    config = replace(TINY, data=replace(TINY.data, seed=5))
    (tmp_path / "it.toml").write_text(config_text(config), "utf-8")
    command = [sys.executable, "-m", "backend.cli", "train-data", "draw", "--config", str(tmp_path / "it.toml")]
    command += ["--out", str(tmp_path / "out"), "--triplets", "8", "--workers", "2", "--device", "cpu"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "8 triplets of 64 pixels in 1 shards" in answer.stdout
    monkeypatch.setattr(
        "trainer.data.stored.epoch_order", lambda counts, *_: np.column_stack([[0] * counts[0], np.arange(counts[0])])
    )
    one, other = (StoredFaces(folder, head, 64, seed=1).batch(0, 8) for folder in (tmp_path / "out", shards))
    assert_same(one, other)


# --- training ---------------------------------------------------------------------------------------------


def test_a_run_from_shards_goes_on_bit_for_bit(model, shards, tmp_path):
    config = replace(TINY, data=replace(TINY.data, shards=str(shards)))
    train(config, model, tmp_path / "whole", ALONE, Options())
    train(config, model, tmp_path / "parts", ALONE, Options(stop_at=4))
    train(config, model, tmp_path / "parts", ALONE, Options(resume=checkpoint_path(tmp_path / "parts", 4)))
    one, other = (load_file(checkpoint_path(tmp_path / name, 8)) for name in ("whole", "parts"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("harm", ["missing", "cut", "fewer", "other", "list"])
def test_what_is_wrong_with_shards_is_one_sentence(head, shards, tmp_path, harm):
    folder = tmp_path / "set"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest, first = load_manifest(folder), folder / shard_name(0)
    if harm == "missing":
        first.unlink()
    elif harm == "cut":
        first.write_bytes(first.read_bytes()[:200_000])
    elif harm == "fewer":
        few = tuple(replace(shard, samples=shard.samples - 1) for shard in manifest.shards)
        save_manifest(folder, replace(manifest, shards=few))
    elif harm == "other":
        save_manifest(folder, replace(manifest, face_model="0" * 16))
    else:
        about = json.loads((folder / MANIFEST_FILE).read_text())
        about["shards"][0]["name"] = "../elsewhere.tar"
        (folder / MANIFEST_FILE).write_text(json.dumps(about))
    with pytest.raises(TrainingError) as error:
        faces = StoredFaces(folder, head, 64, seed=1)
        [faces.batch(number, 8) for number in range(3)]
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_no_training_data_is_one_sentence(tmp_path, capsys):
    config = replace(TINY, data=replace(TINY.data, shards=str(tmp_path)))
    (tmp_path / "it.toml").write_text(config_text(config), "utf-8")
    with pytest.raises(SystemExit) as left:
        cli.app(["train", "--config", str(tmp_path / "it.toml"), "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert left.value.code == 1
    assert "holds no training data" in capsys.readouterr().err
