"""What weights say of their own errors: stored with them, applied to what the network says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.errors import WeightsError
from backend.face_model.model import ModelInfo
from backend.face_model.registry import get_model
from backend.network.backbone import SIZES, Backbone
from backend.network.calibration import USUAL, Calibration
from backend.network.encoder import FaceEncoder
from backend.network.encoder_weights import save_encoder
from backend.network.interface import FaceCrop
from backend.network.outputs import Layout
from backend.vision.crop import Window


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


def test_it_survives_the_file():
    rng = np.random.default_rng(0)
    known = Calibration(
        {"identity": 1.3, "rotation": 0.7},
        {"identity": rng.uniform(0.5, 1.5, 5)},
        {"identity": (rng.normal(size=5), rng.uniform(0.1, 1.0, 5))},
    )
    again = Calibration.from_metadata(known.as_metadata())
    assert again.factor == known.factor
    np.testing.assert_allclose(again.share["identity"], known.share["identity"], rtol=1e-3)
    np.testing.assert_allclose(again.usual["identity"], known.usual["identity"], rtol=1e-3)
    assert Calibration.from_metadata(None).usual.keys() == USUAL.keys()


@pytest.mark.parametrize(
    "stored",
    [
        3,
        {},
        {"factor": {}, "share": {"identity": [1.0, -1.0]}, "usual": {}},
        {"factor": {}, "share": {}, "usual": {"identity": [[0.0], [float("nan")]]}},
        {"factor": {"identity": "much"}, "share": {}, "usual": {}},
    ],
)
def test_a_damaged_one_is_refused(stored):
    with pytest.raises(WeightsError, match=r"own errors cannot be read .*; train them again\."):
        Calibration.from_metadata(stored)


def test_what_a_network_says_of_its_errors_is_corrected(model, tmp_path):
    layout = Layout.of(model)
    torch.manual_seed(2)
    state = Backbone(SIZES["tiny"], layout.outputs).state_dict()
    info = ModelInfo("test", "0", "MIT", True, "Free.", "Nobody.")
    share = np.linspace(0.5, 1.5, layout.identity)
    known = Calibration({"identity": 2.0, "rotation": 3.0, "place": 4.0, "log_focal": 4.0}, {"identity": share})
    plain, corrected = tmp_path / "plain.safetensors", tmp_path / "corrected.safetensors"
    save_encoder(plain, state, "tiny", model, info)
    save_encoder(corrected, state, "tiny", model, replace(info, extra={"calibration": known.as_metadata()}))
    crops = [FaceCrop(np.full((64, 64, 3), 90, np.uint8), Window(0.0, 0.0, 64.0))]
    before, after = (FaceEncoder(path, model).regress(crops) for path in (plain, corrected))
    np.testing.assert_array_equal(after.identity, before.identity)
    np.testing.assert_allclose(after.sigma["identity"], 2.0 * before.sigma["identity"] * share, rtol=1e-3)
    np.testing.assert_allclose(after.sigma["rotation"], 3.0 * before.sigma["rotation"], rtol=1e-5)
    np.testing.assert_allclose(after.sigma["translation"], 4.0 * before.sigma["translation"], rtol=1e-5)
    np.testing.assert_allclose(after.sigma["expression"], before.sigma["expression"])
    assert after.sigma["identity"].shape == (1, layout.identity) and before.sigma["identity"].shape == (1, 1)
    assert set(after.usual) == set(USUAL)
