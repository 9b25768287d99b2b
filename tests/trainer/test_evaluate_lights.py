"""The set `five_lights`: light that stays in a texture is found, brightness is told apart from it."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.vision.photo import Photo
from trainer.evaluate import five_lights
from trainer.evaluate.five_lights import LIGHTS, Task, compare


@pytest.fixture(scope="module")
def task() -> Task:
    return five_lights.invented(get_model("open-head"), 11, 34.0)


def test_brightness_is_no_light_and_a_gradient_is():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.6, (500, 3))
    brighter = compare("a", "tan", np.stack([truth, 1.5 * truth]), truth)
    assert brighter.pairs[0] > 0.3 and brighter.pairs_levelled[0] == pytest.approx(0.0, abs=1e-9)
    half_more = 0.5 * np.sqrt(((truth / truth.mean(axis=0)) ** 2).mean())
    assert brighter.truths == pytest.approx((0.0, half_more)) and brighter.bias == pytest.approx((1.25,) * 3)
    slope = np.linspace(0.8, 1.2, len(truth))[:, None]
    lit = compare("a", "tan", np.stack([truth, slope * truth]), truth)
    assert lit.pairs_levelled[0] > 0.1 and lit.truths_levelled[0] == pytest.approx(0.0, abs=1e-9)


def test_lights_differ_and_the_skin_does_not(task):
    pictures = {lamp.name: task.photos(lamp)[1].pixels.astype(float) for lamp in LIGHTS}
    half = five_lights.PICTURE // 2
    face = np.s_[half - 60 : half + 60, half - 60 : half + 60]
    sides = {name: picture[face][:, 60:].mean() / picture[face][:, :60].mean() for name, picture in pictures.items()}
    # The subject's left is the picture's right.
    assert sides["from the left"] > 1.1 > 1.03 > sides["even"] > 0.97 > 0.9 > sides["from the right"]
    red = {name: picture[face][..., 0].mean() / picture[face][..., 2].mean() for name, picture in pictures.items()}
    assert red["warm, from a low left"] > 1.05 * red["from the left"]
    tones = [five_lights.invented(get_model("open-head"), 11, tone).ita for tone in five_lights.TONES]
    assert tones == sorted(tones) and tones[-1] - tones[0] > 60.0
    assert 0.2 < np.isfinite(task.truth[..., 0]).mean() < 0.8


def test_a_person_under_two_lights_is_measured(task, monkeypatch):
    monkeypatch.setattr(five_lights, "LIGHTS", LIGHTS[:2])
    result = five_lights.measure(task)
    assert result.error is None and result.texels > 10_000 and result.tone in ("tan", "intermediate", "brown")
    assert len(result.pairs) == 1 and 0.01 < result.pairs_levelled[0] <= result.pairs[0] + 1e-6 < 0.4
    # A texture that lost its light is nearer to the truth than the light would leave it.
    assert max(result.truths_levelled) < 0.2
    page = five_lights.page(five_lights.figures([result]))
    assert f"| {result.tone} | 1 |" in page and "two lights, as they come out" in page


def test_a_person_nobody_sees_is_reported(task):
    grey = Photo(np.full((200, 200, 3), 128, np.uint8))
    result = five_lights.measure(Task("7", lambda lamp: [grey] * 3, task.truth, task.ita))
    assert "Light even" in str(result.error)
    assert "* 7: Light even" in five_lights.page(five_lights.figures([result]))
