"""The network that comes with the project: what its file promises, and that it sees a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.errors import ModelError
from backend.face_model.registry import get_model
from backend.network.choice import default_weights, make_encoder, regress_by_default
from backend.network.weights_file import read_info
from backend.reconstruction.pipeline import Pipeline

EXAMPLE = Path(__file__).parents[2] / "examples/astronaut.jpg"
LARGEST_BYTES = 60e6


def test_the_file_tells_where_it_comes_from_and_may_be_sold():
    path = default_weights("open-head")
    assert path is not None and path.stat().st_size < LARGEST_BYTES
    about = read_info(path)
    assert about.info.commercial and about.info.licence == "MIT and CC-BY-4.0"
    assert "ICT-FaceKit" in about.info.attribution and "London" in about.info.attribution
    trained = about.info.extra["training_config"]
    assert trained["data"]["shards"] == "out/people" and trained["network"]["size"] == "compact"
    assert about.info.extra["training_steps"] == trained["run"]["steps"]
    # The model card repeats what the last validation said.
    assert about.info.extra["validation"]["rotation_60_90"] < 10.0


def test_it_sees_the_example_as_the_fit_does():
    """Pose within the errors of both; it is used by name only."""
    assert not regress_by_default("open-head")
    (seen,) = Pipeline(device="cpu", texture_size=None, stages=("detect", "regress")).reconstruct_many([EXAMPLE])
    (fitted,) = Pipeline(device="cpu", texture_size=None, stages=("detect", "fit")).reconstruct_many([EXAMPLE])
    said, known = seen.reconstructions[0], fitted.reconstructions[0]
    cosine = (np.trace(said.camera.R @ known.camera.R.T) - 1.0) / 2.0
    assert np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))) < 15.0
    height = float(np.ptp(known.landmarks["mediapipe478"][:, 1]))
    places = [head.camera.project(head.vertices[::50].astype(np.float64)) for head in (said, known)]
    assert np.linalg.norm(places[0] - places[1], axis=1).mean() < 0.1 * height


def test_they_belong_to_the_very_head():
    model = get_model("open-head")
    encoder = make_encoder(None, model)
    assert encoder.info.name == "mgcface-compact"
    bent = model.replaced(identity=model.identity * np.float32(1.01))
    with pytest.raises(ModelError, match="another face model"):
        make_encoder(None, bent)
