"""The accuracy runner with oracles in place of the pipeline, and the measures on real photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.errors import NoFaceError
from backend.face_model.model import Embedding, FaceModel, ModelInfo
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import FRONTAL
from backend.reconstruction.result import FitReport, Reconstruction
from backend.vision.photo import Photo
from tests.trainer.test_evaluate_now import bumpy_face
from trainer.evaluate import accuracy, photo_sets
from trainer.evaluate.accuracy_report import markdown
from trainer.evaluate.now_protocol import Scan
from trainer.evaluate.photo_sets import PhotoResult
from trainer.evaluate.truth_sets import SetError, TruthItem

PEOPLE = 3


@pytest.fixture(scope="module")
def model() -> FaceModel:
    vertices, triangles, chosen = bumpy_face()
    x, y, _ = vertices.T
    identity = np.zeros((2, *vertices.shape), np.float32)
    identity[0, :, 2] = 0.003 * np.sin(40 * y)
    identity[1, :, 2] = 0.003 * np.cos(50 * x)
    faces = np.concatenate([triangles, np.full((len(triangles), 1), -1)], axis=1).astype(np.int32)
    corners = np.repeat(chosen[:, None], 3, axis=1).astype(np.int32)
    weights = np.tile(np.array([1, 0, 0], np.float32), (7, 1))
    return FaceModel(
        info=ModelInfo("bump", "1", "CC0-1.0", True, "", ""),
        mean=vertices.astype(np.float32),
        identity=identity,
        expression=np.zeros((1, *vertices.shape), np.float32),
        expression_names=("jawOpen",),
        faces=faces,
        uv=np.zeros((1, 2), np.float32),
        face_uv=np.zeros_like(faces),
        face_material=np.zeros(len(faces), np.uint8),
        materials=("skin",),
        regions={},
        landmarks={"now7": Embedding(corners, weights)},
    )


def coefficients(person: int) -> np.ndarray:
    return np.random.default_rng(person).normal(size=2)


def head(model: FaceModel, identity: np.ndarray, distance: float = 0.6, median: float = 0.004) -> Reconstruction:
    camera = Camera(intrinsics(1000.0, 500, 500), FRONTAL, np.array([0.0, 0.0, distance]), 500, 500)
    fit = FitReport(1.0, 2 * median, median, np.array([0.3, 0.5], np.float32), 5, True)
    return Reconstruction(model, None, 500, 500, camera, identity, np.zeros(1), {}, fit)


def photo_of(person: int) -> Photo:
    return Photo(np.zeros((2, 2, 3), np.uint8), Path(str(person)))


@pytest.fixture
def known_faces(model, monkeypatch):
    """Replaces the sets on disk with three people of the little model."""

    def items(set_name, data, make):
        scans = [model.vertices(coefficients(person)).astype(np.float64) for person in range(PEOPLE)]
        return [
            TruthItem(set_name, "three", str(k), Scan(v, model.landmark_points(v, "now7")), lambda k=k: photo_of(k))
            for k, v in enumerate(scans)
        ]

    monkeypatch.setattr(accuracy, "truth_items", items)
    monkeypatch.setattr(accuracy, "get_model", lambda name: model)


def run(tmp_path, reconstruct, **options) -> dict:
    return accuracy.run("bump", ["james"], tmp_path / "out", None, tmp_path, 1, reconstruct, **options)


def test_the_mean_face_scores_as_its_own_floor(known_faces, model, tmp_path):
    row = run(tmp_path, lambda photo: [head(model, np.zeros(2))])["truth"]["three"]
    assert row["non_metrical"] == row["mean_face"]
    assert row["non_metrical"]["mean_of_medians_mm"] > 0.1


def test_truth_scores_zero_and_noise_scores_between(known_faces, model, tmp_path):
    medians = []
    for noise in (0.0, 0.3):
        figures = run(tmp_path, lambda p, noise=noise: [head(model, coefficients(int(str(p.path))) * (1.0 - noise))])
        medians.append(figures["truth"]["three"]["non_metrical"]["mean_of_medians_mm"])
    floor = figures["truth"]["three"]["mean_face"]["mean_of_medians_mm"]
    assert medians[0] < 1e-2 < medians[1] < floor


def test_a_missing_face_refuses_the_headline_and_is_named(known_faces, model, tmp_path):
    def reconstruct(photo):
        if str(photo.path) == "1":
            raise NoFaceError("No face was found in the photo; use another one.")
        return [head(model, np.zeros(2))]

    row = run(tmp_path, reconstruct)["truth"]["three"]
    assert "non_metrical" not in row and "1 of 3 faces" in row["refused"]
    assert (row["found"], list(row["failures"])) == (2, ["1"])
    page = (tmp_path / "out" / "accuracy.md").read_text()
    assert "refused" in page and "three, 1: No face was found" in page
    assert "Over the 2 that were" in page


def test_json_and_page_carry_the_same_figures(known_faces, model, tmp_path):
    figures = run(tmp_path, lambda photo: [head(model, np.zeros(2))])
    stored = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert stored == json.loads(json.dumps(figures))
    value = figures["truth"]["three"]["non_metrical"]["mean_of_medians_mm"]
    assert f"**{value:.3f}**" in (tmp_path / "out" / "accuracy.md").read_text()
    assert stored["header"]["versions"]["numpy"] == np.__version__


def test_progress_counts_every_photo(known_faces, model, tmp_path):
    seen = []
    accuracy.run(
        "bump",
        ["james"],
        tmp_path,
        lambda done, total, text: seen.append((done, total)),
        tmp_path,
        1,
        lambda photo: [head(model, np.zeros(2))],
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_unknown_set_or_missing_folder_is_one_sentence(known_faces, tmp_path):
    with pytest.raises(SetError, match="choose from"):
        accuracy.run("bump", ["nonsense"], tmp_path, reconstruct=lambda photo: [])
    with pytest.raises(SetError, match="--data"):
        accuracy.run("bump", ["zoom"], tmp_path, data=tmp_path, reconstruct=lambda photo: [])


def result(model, name, identity, distance=0.5, error=None) -> PhotoResult:
    if error is not None:
        return PhotoResult(name, error)
    return photo_sets.measure(name, head(model, np.asarray(identity), distance))


def test_summary_counts_faces_and_failures():
    results = [PhotoResult(str(k), None, share, 2 * share) for k, share in enumerate((0.01, 0.02, 0.09))]
    row = photo_sets.summary([*results, PhotoResult("bad", "No face.")])
    assert (row["photos"], row["found"], row["failures"]) == (4, 3, {"bad": "No face."})
    assert row["median_relative"] == pytest.approx(0.02)
    assert row["p90_relative"] == pytest.approx(np.percentile([0.01, 0.02, 0.09], 90))
    assert row["worst_photo"] == "2"
    assert photo_sets.summary([PhotoResult("bad", "No face.")])["median_relative"] is None


def test_distance_is_measured_to_the_face(model):
    near, far = (result(model, "a.jpg", [0, 0], distance) for distance in (0.3, 0.6))
    assert far.distance - near.distance == pytest.approx(0.3, abs=0.01)
    marks = model.landmark_points(model.mean, "now7").mean(axis=0)
    assert near.distance == pytest.approx(np.linalg.norm(marks - [0, 0, 0.3]))


@pytest.mark.parametrize("swapped", [False, True])
def test_zoom_order_and_neighbours(model, swapped):
    distances = {"15cm": 0.2, "30cm": 0.35, "45cm": 0.5, "60cm": 0.7}
    if swapped:
        distances["30cm"] = 0.6
    zoom = [
        result(model, f"zoom/{name}.jpg", [1.0, -1.0 + 0.01 * k], d) for k, (name, d) in enumerate(distances.items())
    ]
    others = [result(model, f"{k}.jpg", identity) for k, identity in enumerate(([-1, 1], [0, 2], [2, 0.5], [0, 0]))]
    figures = photo_sets.zoom_figures(zoom[::-1], others)
    assert figures["in_order"] is (not swapped)
    assert figures["true_m"] == [0.15, 0.30, 0.45, 0.60]
    assert figures["within_mm"]["largest"] < figures["between_mm"]["least"]
    assert (figures["nearest_is_self"], figures["nearest_of"]) == (12, 12)
    stranger = result(model, "twin.jpg", [1.0, -0.985])
    assert photo_sets.zoom_figures(zoom, [*others, stranger])["nearest_is_self"] < 12


def pairs(modes=12, people=20, noise=0.2):
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(people, modes))
    sigma = np.linspace(0.1, 0.6, modes)

    def entry(folder, person, code):
        return PhotoResult(
            f"{folder}/{person:03d}_{code}.jpg",
            identity=truth[person] + rng.normal(0, noise, modes) + (0.5 if folder == "smiling" else 0.0),
            sigma_identity=sigma,
        )

    return [entry("neutral", p, "03") for p in range(people)] + [entry("smiling", p, "08") for p in range(people)]


def test_identity_finds_the_same_person_by_every_rule():
    figures = photo_sets.identity_figures(pairs())
    assert (figures["people"], figures["usable"]) == (20, 20)
    assert set(figures["rank1"]) == {
        "cosine",
        "cosine_centred_by_set",
        "cosine_whitened",
        "likelihood_ratio",
        "mahalanobis",
    }
    for counts in figures["rank1"].values():
        assert min(counts.values()) >= 18


def test_identity_of_noise_is_chance_and_a_lost_photo_is_a_miss():
    assert photo_sets.identity_figures(pairs(noise=1e3))["rank1"]["cosine"]["neutral_to_smiling"] < 6
    results = pairs()
    results[0] = PhotoResult(results[0].name, "No face.")
    figures = photo_sets.identity_figures(results)
    assert (figures["people"], figures["usable"]) == (20, 19)
    assert figures["rank1"]["cosine"]["neutral_to_smiling"] <= 19


def test_likelihood_ratio_is_the_gaussian_one():
    """The closed form against the log densities of scipy, for one pair, up to its constant."""
    from scipy.stats import multivariate_normal

    certainty = np.array([0.9, 0.4])
    a, b = np.array([[0.3, -1.2], [1.0, 0.2]]), np.array([[0.5, -0.7], [-0.4, 0.1]])
    rule = photo_sets.similarities(a, b, certainty)["likelihood_ratio"]
    middle = np.concatenate([a, b]).mean(axis=0)

    def log_odds(first, second):
        total = 0.0
        for mode, rho in enumerate(certainty):
            pair = np.array([first[mode] - middle[mode], second[mode] - middle[mode]]) / np.sqrt(rho)
            total += multivariate_normal([0, 0], [[1, rho], [rho, 1]]).logpdf(pair)
            total -= multivariate_normal([0, 0], np.eye(2)).logpdf(pair)
        return total

    expected = np.array([[log_odds(x, y) for y in b] for x in a])
    np.testing.assert_allclose(rule - rule[0, 0], expected - expected[0, 0], atol=1e-9)


def test_page_of_photo_sets(model):
    zoom = [result(model, f"zoom/{cm}cm.jpg", [0.1, 0.2], cm / 100) for cm in (15, 30)]
    figures = {
        "header": accuracy.header(model, ["zoom", "identity"], 1),
        "truth": {},
        "photos": {"zoom": photo_sets.summary(zoom)},
        "zoom": photo_sets.zoom_figures(zoom, [result(model, "x.jpg", [-1, -1])]),
        "identity": photo_sets.identity_figures(pairs()),
    }
    page = markdown(figures)
    assert "| zoom | 2 of 2 | 0.40 % |" in page
    assert "right order: yes" in page and "of 20" in page
