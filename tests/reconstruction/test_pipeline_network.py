"""The network as a stage of the pipeline: alone, before the fit, by default or not, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import cli
from backend.errors import DependencyError, ModelError, WeightsError
from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.registry import get_model
from backend.geometry.rotation import rotation_from_head_euler
from backend.network import choice
from backend.network.backbone import SIZES, Backbone
from backend.network.calibration import Calibration
from backend.network.choice import chosen_weights, default_weights, make_encoder
from backend.network.encoder import FaceEncoder, window_of
from backend.network.encoder_weights import save_encoder
from backend.network.interface import FaceCrop, Regressed
from backend.network.outputs import Layout
from backend.network.weights_file import WeightsInfo, save_weights
from backend.reconstruction import pipeline as pipeline_module
from backend.reconstruction.pipeline import Pipeline, default_stages
from backend.server.engine import Engine
from backend.server.item import Item
from backend.server.jobs import DEFAULT_OPTIONS
from backend.vision.decode import load_photo
from backend.vision.photo import DetectedFace, Photo

EXAMPLE = Path(__file__).parents[2] / "examples/astronaut.jpg"


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return get_model("open-head")


@pytest.fixture(scope="module")
def weights(model: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned nothing and says so: every error as large as can be said."""
    layout = Layout.of(model)
    torch.manual_seed(1)
    network = Backbone(SIZES["tiny"], layout.outputs)
    with torch.no_grad():
        network.answer.bias[-len(layout.sizes) :] = 3.0
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    info = ModelInfo("mine", "1", "MIT", True, "Free.", "Nobody.", extra={"calibration": Calibration().as_metadata()})
    save_encoder(path, network.state_dict(), "tiny", model, info)
    return path


@pytest.fixture(scope="module")
def pipeline(model: FaceModel, weights: Path) -> Pipeline:
    return Pipeline(model, device="cpu", texture_size=None, weights=weights)


@pytest.fixture
def mgcface():
    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.app([str(argument) for argument in arguments], prog_name="mgcface")
        return int(ended.value.code or 0)

    return call


def at(pipeline: Pipeline, *stages: str) -> Pipeline:
    pipeline.stages = stages
    return pipeline


class Oracle:
    """Says of every face what it was told to."""

    def __init__(self, model: FaceModel, said: Regressed) -> None:
        self.info, self.model, self.said = model.info, model, said
        self.seen: list[int] = []

    def crop(self, photo: Photo, face: DetectedFace) -> FaceCrop:
        return FaceCrop(np.zeros((64, 64, 3), np.uint8), window_of(face.landmarks["ibug68"]))

    def regress(self, crops) -> Regressed:
        self.seen.append(len(crops))
        return self.said


@pytest.fixture
def all_asked(monkeypatch):
    """The network is asked about heads that look into the camera too."""
    monkeypatch.setattr(pipeline_module, "ASKED_YAW", 0.0)
    monkeypatch.setattr(pipeline_module, "HEARD_YAW", 0.0)


def test_weights_alone_bring_the_stage(pipeline):
    assert pipeline.stages == ("detect", "regress", "fit", "refine", "texture")
    assert isinstance(pipeline.encoder, FaceEncoder)


def test_the_head_is_the_networks_where_there_is_no_fit(model, pipeline):
    photo = load_photo(EXAMPLE)
    (outcome,) = at(pipeline, "detect", "regress").reconstruct_many([photo])
    (head,) = outcome.reconstructions
    encoder = pipeline.encoder
    crop = encoder.crop(photo, outcome.faces[0])
    said = encoder.regress([crop])
    np.testing.assert_allclose(head.identity, said.identity[0], atol=1e-5)
    np.testing.assert_allclose(head.expression, said.expression[0], atol=1e-5)
    camera = said.photo_camera(0, crop.window, photo)
    np.testing.assert_allclose(head.camera.project(head.vertices[::50]), camera.project(head.vertices[::50]), atol=0.1)
    assert set(outcome.timings_ms) == {"detect", "regress"} and outcome.timings_ms["regress"] > 0
    assert head.fit.converged and head.fit.iterations == 0 and head.fit.sigma_identity.shape == head.identity.shape


@pytest.mark.usefixtures("all_asked")
def test_a_network_that_knows_nothing_leaves_the_fit_as_it_was(pipeline):
    (alone,) = at(pipeline, "detect", "fit").reconstruct_photo(load_photo(EXAMPLE))
    (outcome,) = at(pipeline, "detect", "regress", "fit").reconstruct_many([EXAMPLE])
    (both,) = outcome.reconstructions
    assert {"decode", "detect", "regress", "fit"} == set(both.timings_ms)
    np.testing.assert_allclose(both.identity, alone.identity, atol=0.05)
    np.testing.assert_allclose(both.camera.R, alone.camera.R, atol=0.01)
    assert both.fit.rms_relative < 1.05 * alone.fit.rms_relative


def test_a_network_is_neither_asked_nor_heard_of_a_head_that_looks_into_the_camera(model, pipeline, monkeypatch):
    photo = load_photo(EXAMPLE)
    (alone,) = at(pipeline, "detect", "fit").reconstruct_photo(photo)
    said = pipeline.encoder.regress([pipeline.encoder.crop(photo, pipeline.detector.detect(photo)[0])])
    # Sure of everything, wrong in everything, and the head as frontal as it is.
    said.identity[:], said.R[0] = 2.0, alone.camera.R
    said.sigma.update({name: np.full_like(values, 0.01) for name, values in said.sigma.items()})
    oracle = Oracle(model, said)
    before, pipeline.made_encoder = pipeline.made_encoder, oracle
    try:
        (both,) = at(pipeline, "detect", "regress", "fit").reconstruct_photo(photo)
        assert oracle.seen == []
        np.testing.assert_array_equal(both.identity, alone.identity)
        monkeypatch.setattr(pipeline_module, "ASKED_YAW", 0.0)
        (both,) = at(pipeline, "detect", "regress", "fit").reconstruct_photo(photo)
        assert oracle.seen == [1]
        np.testing.assert_array_equal(both.identity, alone.identity)
        said.R[0] = said.R[0] @ rotation_from_head_euler(60.0).T @ rotation_from_head_euler()
        (both,) = at(pipeline, "detect", "regress", "fit").reconstruct_photo(photo)
        assert np.abs(both.identity - alone.identity).max() > 0.1, "a head that it sees turned"
    finally:
        pipeline.made_encoder = before


@pytest.mark.usefixtures("all_asked")
def test_a_network_that_knows_is_heard(model, pipeline):
    """An identity that it is sure of comes through, the landmarks keep their place."""
    photo = load_photo(EXAMPLE)
    (alone,) = at(pipeline, "detect", "fit").reconstruct_photo(photo)
    identity = np.random.default_rng(0).normal(0.0, 0.8, len(model.identity)).astype(np.float32)
    said = Regressed(
        identity=identity[None],
        expression=alone.expression[None],
        R=alone.camera.R[None],
        t=np.array([[0.0, 0.0, alone.camera.t[2]]]),
        focal_px=np.array([1000.0]),
        side=64,
        sigma={"identity": np.full((1, 1), 0.1)},
        usual={"identity": (np.zeros(1), np.full(1, 0.8))},
    )
    before, oracle = pipeline.made_encoder, Oracle(model, said)
    pipeline.made_encoder = oracle
    try:
        (both,) = at(pipeline, "detect", "regress", "fit").reconstruct_photo(photo)
    finally:
        pipeline.made_encoder = before
    assert oracle.seen == [1]
    assert np.abs(both.identity - identity).mean() < 0.25 * np.abs(alone.identity - identity).mean()
    assert both.fit.sigma_identity.mean() < 0.5 * alone.fit.sigma_identity.mean()
    assert both.fit.rms_relative < 2.0 * alone.fit.rms_relative


def test_all_photos_of_a_group_are_looked_at_together_and_bad_ones_left_out(model, pipeline, tmp_path):
    oracle = Oracle(model, pipeline.encoder.regress([]))
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    real = pipeline.encoder
    oracle.regress = lambda crops: oracle.seen.append(len(crops)) or real.regress(crops)  # type: ignore[method-assign]
    oracle.crop = real.crop  # type: ignore[method-assign]
    pipeline.made_encoder = oracle
    try:
        outcomes = list(at(pipeline, "detect", "regress").reconstruct_many([EXAMPLE, tmp_path / "broken.jpg", EXAMPLE]))
    finally:
        pipeline.made_encoder = real
    assert oracle.seen == [2]
    assert [len(outcome.reconstructions) for outcome in outcomes] == [1, 0, 1] and outcomes[1].error is not None


@pytest.mark.usefixtures("all_asked")
def test_an_answer_without_sense_fails_its_photo_alone(model, pipeline, monkeypatch):
    real, calls = pipeline.encoder.regress, []

    def broken(crops):
        said = real(crops)
        said.identity[1] = np.nan
        calls.append(1)
        return said

    monkeypatch.setattr(pipeline.encoder, "regress", broken)
    good, bad = at(pipeline, "detect", "regress", "fit").reconstruct_many([EXAMPLE, EXAMPLE])
    assert good.error is None and len(good.reconstructions) == 1
    assert isinstance(bad.error, WeightsError) and not bad.reconstructions


# --- which weights ----------------------------------------------------------------------------------------


def test_the_default_is_a_decision_and_needs_weights(model, weights, monkeypatch, tmp_path):
    usual = ("detect", "fit", "refine", "texture")
    monkeypatch.setattr(choice, "DATA", tmp_path)
    monkeypatch.setattr(choice, "REGRESS_BY_DEFAULT", True)
    assert default_weights("open-head") is None and default_stages(model) == usual
    assert default_stages(model, weights) == ("detect", "regress", "fit", "refine", "texture")
    (tmp_path / "encoder_open-head.safetensors").write_bytes(weights.read_bytes())
    assert default_stages(model) == ("detect", "regress", "fit", "refine", "texture")
    assert chosen_weights(None, "open-head") == tmp_path / "encoder_open-head.safetensors"
    assert default_stages(replace(model, info=replace(model.info, name="another"))) == ("detect", "fit", "texture")
    monkeypatch.setattr(choice, "REGRESS_BY_DEFAULT", False)
    assert default_stages(model) == usual
    assert Pipeline(device="cpu", texture_size=None, stages=("detect", "regress")).encoder.info.name == "mine"


def test_a_stage_without_weights_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "DATA", tmp_path)
    with pytest.raises(
        WeightsError, match=r"No network weights .* open-head .*name a file with --weights or leave out"
    ):
        Pipeline(device="cpu", texture_size=None, stages=("detect", "regress"))
    with pytest.raises(DependencyError, match="choose from detect, regress, fit, refine, texture"):
        Pipeline(device="cpu", texture_size=None, stages=("detect", "dream"))


def test_the_file_says_which_network_it_is(model, weights, tmp_path):
    assert isinstance(make_encoder(weights, model), FaceEncoder)
    info = ModelInfo("theirs", "1", "none", False, "Research.", "Them.")
    save_weights(tmp_path / "other.safetensors", {"a": np.zeros(2, np.float32)}, WeightsInfo("else", "bfm09", info))
    with pytest.raises(WeightsError, match="the network else and not of our encoder"):
        make_encoder(tmp_path / "other.safetensors", model)
    bent = model.replaced(identity=model.identity * np.float32(1.001))
    with pytest.raises(ModelError, match="another face model"):
        Pipeline(bent, device="cpu", texture_size=None, weights=weights)


# --- commands ---------------------------------------------------------------------------------------------


def test_the_command(mgcface, weights, tmp_path, capfd):
    arguments = ("--weights", weights, "--stages", "detect,regress", "--formats", "json", "--json")
    assert mgcface("reconstruct", EXAMPLE, "--out", tmp_path, *arguments) == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    assert set(result["heads"][0]["timings_ms"]) == {"decode", "detect", "regress"}
    record = json.loads(Path(result["heads"][0]["files"][0]).read_text("utf-8"))
    K = np.array(record["camera"]["K"])
    assert abs(K[0, 2] - 256.0) > 5.0, "the principal point is the crop's middle, so every vertex is on its pixel"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--weights", "a", "--stages", "detect,fit"), 2, "--weights is for the stage regress"),
        (("--weights", "missing.safetensors"), 1, "missing.safetensors cannot be read"),
        (("--weights", EXAMPLE), 1, "not a weights file"),
    ],
)
def test_wrong_weights_are_one_sentence(mgcface, tmp_path, capfd, arguments, code, words):
    assert mgcface("reconstruct", EXAMPLE, "--out", tmp_path, *arguments) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


def test_doctor_and_bench_know_the_network(mgcface, weights, monkeypatch, tmp_path, capfd):
    from backend.commands import bench, doctor

    monkeypatch.setattr(choice, "DATA", tmp_path)
    none, turned_heads = doctor.weights_checks()
    assert turned_heads.name == "turned-heads" and turned_heads.state == "ok" and "may be sold" in turned_heads.detail
    assert none.state == "optional" and "--weights" in none.detail
    (tmp_path / "encoder_open-head.safetensors").write_bytes(weights.read_bytes())
    mine, _ = doctor.weights_checks()
    assert mine.state == "ok" and "mine 1, used with --stages" in mine.detail and "may be sold" in mine.detail
    request = bench.Request(photo=EXAMPLE, texture="none", weights=weights, repeats=1)
    pipeline = bench.load_pipeline(request)
    outcome = bench.only_outcome(pipeline, EXAMPLE, type("Never", (), {"heard": staticmethod(lambda: False)})())
    assert outcome.timings_ms["regress"] > 0
    assert bench.header(request, EXAMPLE, "cpu")["network"] == "mine.safetensors"


def test_the_server_takes_the_stage_and_refuses_it_without_weights(monkeypatch, tmp_path, weights):
    said: list[str] = []

    class Report:
        def progress(self, item, stage, fraction):
            said.append(stage)

        def face(self, item, body, arrays):
            said.append("face")

        def photo_failed(self, item, code, message):
            said.append(code)

        def photo_done(self, item, faces, timings_ms):
            said.append("/".join(timings_ms))

        def refused(self, code, message):
            said.append(f"refused {code}")

        def note(self, text):
            said.append(text)

        def stopped(self):
            return False

    monkeypatch.setattr(choice, "DATA", tmp_path)
    engine = Engine("cpu")
    options = {**DEFAULT_OPTIONS, "texture_size": 0, "stages": ["detect", "regress"]}
    engine.run([Item("c", "j", 0, "a.jpg", str(EXAMPLE))], options, Report())
    assert "refused weights" in said and "face" not in said
    said.clear()
    (tmp_path / "encoder_open-head.safetensors").write_bytes(weights.read_bytes())
    engine.run([Item("c", "j", 0, "a.jpg", str(EXAMPLE))], options, Report())
    assert "face" in said and "regress" in said and said[-1] == "detect/regress"
    said.clear()
    engine.run([Item("c", "j", 0, "a.jpg", str(EXAMPLE))], {**DEFAULT_OPTIONS, "texture_size": 0}, Report())
    assert "face" in said and "regress" not in said
