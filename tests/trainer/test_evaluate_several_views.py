"""The sets of several photos of one person: a real person measured small, and the arithmetic on made results."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.reconstruction.joint import Answers
from backend.reconstruction.same_person import shipped_statistics
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.several_views import draw_series
from trainer.evaluate import accuracy, several_views, stranger_draws
from trainer.evaluate.accuracy import DEFAULT_DATA
from trainer.evaluate.several_views import COUNTS, Result


def test_a_series_is_one_person_in_changing_moments():
    model = get_model("open-head")
    short, long = draw_series(model, 3, 2), draw_series(model, 3, 4)
    for a, b in zip(short, long):
        np.testing.assert_array_equal(a.vertices, b.vertices)
        np.testing.assert_array_equal(a.camera.R, b.camera.R)
    assert all((person.identity == long[0].identity).all() for person in long)
    assert len({person.camera.focal_px for person in long}) == 4
    assert any((person.expression != long[0].expression).any() for person in long[1:])


def test_a_person_keeps_skin_and_changes_light():
    model = get_model("open-head")
    person, painter = draw_series(model, 4, 1)[0], Painter(model)
    first, again, second = (painter.paint(person, 4, moment).astype(float) for moment in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).mean() > 2.0


def test_one_invented_person_is_measured():
    task = several_views.invented(get_model("open-head"), several_views.FIRST_SEED)
    result = several_views.measure(task)
    assert result.error is None
    assert set(result.refined_mm) == set(result.joint_mm) == set(COUNTS) == set(result.average_mm)
    assert all(0.2 < error < 2.5 for error in (*result.joint_mm.values(), *result.refined_mm.values()))
    assert result.refined_mm != result.joint_mm


def test_a_person_nobody_sees_is_reported():
    grey = Photo(np.full((200, 200, 3), 128, np.uint8))
    task = several_views.invented(get_model("open-head"), 1)
    result = several_views.measure(several_views.Task("invented", "1", lambda: [grey] * 9, task.scan))
    assert "Only 0 photos" in str(result.error)
    assert "invented 1" in several_views.page(several_views.figures([result]))


def made(name: str, first: float) -> Result:
    errors = {count: first / count for count in COUNTS}
    refined = {count: 0.5 * error for count, error in errors.items()}
    return Result("invented", name, None, 1, refined, errors, {count: first for count in COUNTS})


def test_means_page_and_drawing():
    left_out = [{"joint": 0.007, "single": [0.008, 0.009], "own": 0.006}]
    over_all = {"joint": 0.0065, "single": [0.0081, 0.0092, 0.0085]}
    series = Result("series", "zoom", left_out=left_out, over_all=over_all, fit_ms=210.0)
    summary = several_views.figures([made("a", 1.0), made("b", 2.0), series])
    row = summary["curve"]["invented"]
    assert row["joint_mm"][3] == pytest.approx(0.5) and row["average_mm"][9] == pytest.approx(1.5)
    assert row["missed_photos"] == 2
    page = several_views.page(summary)
    assert "| invented, joint head, refined | 2 | 2 | 0.750 | 0.375 | 0.250 |" in page
    assert "| invented, joint head of landmarks | 2 | 2 | 1.500 | 0.750 | 0.500 |" in page
    assert "| zoom 1 | 0.70 % | 0.80 % | 0.90 % | 0.60 % |" in page and "210 ms" in page
    assert "| zoom | 0.65 % | 0.81 % | 0.92 % |" in page
    drawing = several_views.drawing(summary)
    assert drawing is not None and drawing.count("<polyline") == 3
    assert several_views.drawing(several_views.figures([series])) is None


def test_strangers_are_counted():
    statistics = shipped_statistics(get_model("open-head"), "mediapipe478")
    assert statistics is not None
    rng = np.random.default_rng(0)
    rho = statistics.correlation.astype(float)
    back = np.linalg.pinv(statistics.directions.astype(float))
    people = []
    for number in range(12):
        own = rng.normal(0.0, np.sqrt(rho))
        y = own + rng.normal(0.0, np.sqrt(1.0 - rho), (5, len(rho)))
        answers = Answers(statistics.middles[0] + y @ back, np.tile([0.0, 0.0, -1.0], (5, 1)), np.zeros(5))
        people.append(stranger_draws.Result("invented", str(number), str(number), answers))
    row = stranger_draws.figures(people)["invented"]
    assert row["size"] == 5 and row["draws"] == stranger_draws.DRAWS
    assert row["found"] > 0.9 * row["draws"] and row["right_lost"] < 0.1 * row["draws"]
    assert "| invented | 5 | 200 |" in stranger_draws.page({"invented": row})


@pytest.mark.skipif(not (DEFAULT_DATA / "scans/meshmonk").is_dir(), reason="the scans of ../shared are not here")
def test_the_command_writes_page_and_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(several_views, "INVENTED", 1)
    monkeypatch.setattr(several_views, "MESHMONK", 0)
    monkeypatch.setattr(several_views, "SERIES", ())
    accuracy.run(sets=["several_views"], out_dir=tmp_path)
    assert "| invented, joint head, refined | 1 |" in (tmp_path / "accuracy.md").read_text()
    assert "<polyline" in (tmp_path / "several_views.svg").read_text()
