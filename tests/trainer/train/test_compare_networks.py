"""Kinds of networks next to each other: what they are, and that they are trained and measured as said."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from training_runs import TINY

from backend.geometry.rotation import rotation_from_head_euler
from backend.network.backbone import SIZES, Backbone
from backend.network.outputs import SCALES, Layout
from trainer import compare_networks
from trainer.compare_networks import CANDIDATES, ConvNext, Inverted, build, decoded, fused, rotation_from_euler
from trainer.train.config import config_text

SIZE, OUTPUTS = SIZES["tiny"], 30


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_looks_at_crops_and_learns(candidate):
    network = build(candidate, SIZE, OUTPUTS)
    crops = torch.randint(0, 256, (2, SIZE.side, SIZE.side, 3), dtype=torch.uint8)
    answer = network(crops)
    assert answer.shape == (2, OUTPUTS)
    answer.square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.stages.parameters()
    )


def test_candidates_are_what_their_names_say():
    kinds = {candidate.name: build(candidate, SIZE, OUTPUTS) for candidate in CANDIDATES}
    assert isinstance(kinds["inverted"].stages[0], Inverted) and isinstance(kinds["convnext"].stages[0], ConvNext)
    weights = {name: sum(each.numel() for each in network.parameters()) for name, network in kinds.items()}
    assert weights["half"] < 0.6 * weights["plain"] == 0.6 * weights["euler"]
    torch.manual_seed(1)
    plain = Backbone(SIZE, OUTPUTS).state_dict()
    assert all(torch.equal(plain[name], tensor) for name, tensor in kinds["plain"].state_dict().items())
    assert not torch.equal(kinds["plain"].stem.conv.weight, kinds["plain-2"].stem.conv.weight)


def test_maps_shrink_where_a_unit_says_so():
    x = torch.randn(1, 8, 12, 12)
    for unit in (Inverted, ConvNext):
        assert unit(8, 16, 2)(x).shape == (1, 16, 6, 6)
        assert unit(8, 8, 1)(x).shape == x.shape


def test_angles_are_those_of_the_slow_twin():
    angles = torch.tensor([[0.3, -0.2, 0.1], [-1.4, 0.5, -0.7], [0.0, 0.0, 0.0]], dtype=torch.float64)
    slow = np.stack([rotation_from_head_euler(*np.degrees(row)) for row in angles.numpy()])
    assert np.abs(rotation_from_euler(angles).numpy() - slow).max() < 1e-12


def test_only_the_rotation_is_read_another_way(model):
    layout = Layout.of(model)
    numbers = 0.3 * torch.randn(2, layout.outputs)
    six, angles = decoded(numbers, layout, euler=False), decoded(numbers, layout, euler=True)
    assert torch.equal(six.identity, angles.identity) and torch.equal(six.place, angles.place)
    first = layout.identity + layout.expression + layout.albedo + 27
    assert torch.allclose(angles.R, rotation_from_euler(SCALES["rotation"] * numbers[:, first : first + 3]))
    assert (six.R - angles.R).abs().max() > 0.01


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_the_timed_network_says_what_the_trained_one_does(candidate):
    network = build(candidate, SIZE, OUTPUTS)
    crops = torch.randint(0, 256, (4, SIZE.side, SIZE.side, 3), dtype=torch.uint8)
    for _ in range(20):  # so that normalisations know something
        network(crops)
    network.eval()
    before = network(crops).detach()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused(network).modules())
    assert (network(crops) - before).abs().max() < 1e-3 * before.abs().max()


def test_the_command_trains_measures_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.toml").write_text(config_text(TINY), "utf-8")

    def call(*more: str) -> str:
        out = ["--config", str(tmp_path / "config.toml"), "--out", str(tmp_path / "out"), *more]
        monkeypatch.setattr(sys, "argv", ["compare_networks", *out])
        compare_networks.main()
        return capsys.readouterr().out

    chosen = ("--steps", "2", "--only", "euler", "--only", "half")
    said = call(*chosen)
    stored = json.loads((tmp_path / "out/networks.json").read_text("utf-8"))["found"]
    assert set(stored) == {"euler", "half"}
    assert {"rotation_degrees", "ms_1", "weights"} <= set(stored["half"])
    assert "| the same, Euler angles |" in said and f"{stored['half']['rotation_degrees']:.2f}" in said
    monkeypatch.setattr(compare_networks, "trained", None)
    assert "step 2 of 2" in said and "step" not in call(*chosen).split("Widths")[0]
    timed = call(*chosen, "--time-again")
    assert f"{stored['half']['rotation_degrees']:.2f}" in timed
    with pytest.raises(SystemExit, match="another configuration or number of steps"):
        call("--steps", "3")
