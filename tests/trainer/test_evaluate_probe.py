"""The expression probe: its formulas against slow ones, and label files of AffectNet's form."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backend.errors import NoFaceError
from trainer.evaluate import accuracy
from trainer.evaluate import expression_probe as probe
from trainer.evaluate.expression_probe import EMOTIONS, LabelledPhoto, ProbeResult
from trainer.evaluate.truth_sets import SetError


def results(noise: float = 0.0, shuffled: bool = False, count: int = 160) -> list[ProbeResult]:
    """Coefficients from which emotion, valence and arousal follow by a linear map, up to noise."""
    rng = np.random.default_rng(2)
    centres = 3.0 * np.eye(8, 10)
    made = []
    for part in probe.PARTS:
        for number in range(count):
            emotion = number % 8
            features = centres[emotion] + rng.normal(scale=0.2, size=10)
            valence, arousal = 0.1 * features[0] - 0.2 * features[3] + 0.3, 0.2 * features[8]
            if shuffled:
                emotion, valence, arousal = int(rng.integers(8)), *rng.uniform(-1, 1, 2)
            label = LabelledPhoto(f"{part}/{number}", Path("x"), part, emotion, float(valence), float(arousal))
            made.append(ProbeResult(label.name, label, features + rng.normal(scale=noise, size=10)))
    return made


def test_gradient_is_that_of_differences_and_loss_that_of_a_loop():
    rng = np.random.default_rng(0)
    features, emotions = rng.normal(size=(9, 3)), rng.integers(0, 8, 9)
    weights = rng.normal(size=8 * 4)
    loss, gradient = probe.logistic_loss(weights, features, emotions)
    matrix, total = weights.reshape(8, 4), 0.0
    for x, y in zip(features, emotions):
        odds = np.exp(matrix @ np.append(x, 1.0))
        total -= np.log(odds[y] / odds.sum()) / len(features)
    assert loss == pytest.approx(total + 0.5 * probe.RIDGE * (matrix[:, :3] ** 2).sum(), rel=1e-12)
    for k in range(len(weights)):
        step = 1e-6 * np.eye(len(weights))[k]
        up, down = (probe.logistic_loss(weights + sign * step, features, emotions)[0] for sign in (1, -1))
        assert gradient[k] == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_ridge_is_least_squares_with_rows_for_the_penalty():
    rng = np.random.default_rng(1)
    features, wanted = rng.normal(size=(20, 3)), rng.normal(size=20) + 5.0
    rows = np.concatenate([np.column_stack([features, np.ones(20)]), np.sqrt(20 * probe.RIDGE) * np.eye(3, 4)])
    slow = np.linalg.lstsq(rows, np.append(wanted, np.zeros(3)), rcond=None)[0]
    np.testing.assert_allclose(probe.fit_ridge(features, wanted), slow, atol=1e-12)


def test_concordance_sees_shift_and_size_and_sign():
    truth = np.array([0.1, 0.5, -0.3, 0.9])
    guess = np.array([0.2, 0.3, -0.1, 0.6])
    mean_g, mean_t = sum(guess) / 4, sum(truth) / 4
    covariance = sum((g - mean_g) * (t - mean_t) for g, t in zip(guess, truth)) / 4
    spread = sum((g - mean_g) ** 2 for g in guess) / 4 + sum((t - mean_t) ** 2 for t in truth) / 4
    assert probe.concordance(guess, truth) == pytest.approx(2 * covariance / (spread + (mean_g - mean_t) ** 2))
    assert probe.concordance(truth, truth) == pytest.approx(1.0)
    assert probe.concordance(-truth + 2 * mean_t, truth) == pytest.approx(-1.0)
    assert probe.concordance(truth + 1.0, truth) < 0.3 and probe.concordance(0.2 * truth, truth) < 0.5
    assert probe.concordance(np.zeros(4), np.zeros(4)) == 0.0


def test_the_probe_finds_what_is_there_and_nothing_where_nothing_is():
    found = probe.figures(results())
    assert found["accuracy"] == 1.0 and set(found["recall"]) == set(EMOTIONS)
    assert found["valence"]["ccc"] > 0.99 and found["arousal"]["ccc"] > 0.99 and found["valence"]["rmse"] < 0.02
    none = probe.figures(results(shuffled=True))
    assert none["accuracy"] < 0.3 and abs(none["valence"]["ccc"]) < 0.3
    assert none["most_frequent"] < 0.3
    scaled = [ProbeResult(i.name, i.label, 1000.0 * i.expression + 7.0) for i in results(noise=1.0)]
    assert probe.figures(scaled)["accuracy"] == probe.figures(results(noise=1.0))["accuracy"], "no unit matters"


def test_a_lost_validation_face_refuses_and_a_lost_training_face_does_not():
    made = results()
    lost = ProbeResult(made[0].name, made[0].label, error="No face.")
    found = probe.figures([lost, *made[1:]])
    assert "refused" not in found and found["training"] == {"photos": 160, "found": 159}
    lost = ProbeResult(made[-1].name, made[-1].label, error="No face.")
    found = probe.figures([*made[:-1], lost])
    assert "1 of 160 validation faces" in found["refused"]
    page = probe.page(found)
    assert "**" not in page and "No face." in page
    assert "Too few" in probe.figures([lost])["refused"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six photos whose emotion the oracle reads off their grey: training with a line of names, validation without."""
    images = tmp_path / "Manually_Annotated_Images" / "12"
    images.mkdir(parents=True)
    rows = {"training": [",".join(probe.COLUMNS)], "validation": []}
    for part, kinds in (("training", (0, 1, 0, 1)), ("validation", (0, 1))):
        for number, emotion in enumerate(kinds):
            name = f"12/{part}{number}.png"
            Image.new("RGB", (64, 64), (100 * emotion,) * 3).save(images.parent / name)
            rows[part].append(f"{name},0,0,64,64,1;2;3,{emotion},{emotion - 0.5},{0.2 * number}")
    rows["validation"] += ["12/none.png,0,0,64,64,,8,-2,-2", "12/noface.png,0,0,64,64,,10,-2,-2"]
    for part, lines in rows.items():
        (tmp_path / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_label_files_are_read_through_the_evaluator(folder, monkeypatch):
    model = SimpleNamespace(info=SimpleNamespace(name="m", version="1"))
    monkeypatch.setattr(accuracy, "get_model", lambda name: model)

    def reconstruct(photo):
        if photo.path.stem == "training3":
            raise NoFaceError("No face was found in the photo; use another one.")
        return [SimpleNamespace(expression=np.array([photo.pixels.mean() / 100.0, 0.0]))]

    figures = accuracy.run("m", ["affectnet"], folder / "out", None, folder, 1, reconstruct)
    found = figures["benchmarks"]["affectnet"]
    assert found["training"] == {"photos": 4, "found": 3} and found["validation"] == {"photos": 2, "found": 2}
    assert found["accuracy"] == 1.0 and found["valence"]["ccc"] > 0.95
    assert "**100.00 %**" in (folder / "out" / "accuracy.md").read_text()
    monkeypatch.setattr(probe, "TRAINING_PER_EMOTION", 1)
    assert [item.name for item in probe.load(folder)][:3] == [
        "training/12/training0.png", "training/12/training1.png", "validation/12/validation0.png",
    ]  # fmt: skip


def test_label_files_of_another_form_are_one_sentence(folder):
    with pytest.raises(SetError, match="--data"):
        probe.load(folder / "nowhere")
    text = (folder / "validation.csv").read_text()
    (folder / "validation.csv").write_text(text.splitlines()[0] + "\n")
    with pytest.raises(SetError, match="fewer than two"):
        probe.load(folder)
    (folder / "validation.csv").write_text(text + "a.png,happy\n")
    with pytest.raises(SetError, match=r"Line 5 of .*validation\.csv"):
        probe.load(folder)
