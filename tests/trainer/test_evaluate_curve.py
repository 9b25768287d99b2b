"""The cumulative error curve, its drawing, and the published rows beside ours."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from trainer.evaluate import accuracy, error_curve, published
from trainer.evaluate.accuracy_report import curves, markdown

HEADER = {"command": "c", "model": "m", "model_version": "1", "machine": "x", "python": "3", "versions": {}}
POOLED = {"faces": 1, "median_mm": 1.234, "mean_mm": 1.5, "std_mm": 0.5, "mean_of_medians_mm": 1.2}


def row(**more) -> dict:
    return {"photos": 1, "found": 1, "failures": {}, "mean_face": POOLED, "faces": {}, **more}


def whole(curve) -> dict:
    return row(non_metrical=POOLED, metrical=POOLED, curve=curve, mean_face_curve=curve)


def test_shares_are_counted_one_by_one():
    values = np.random.default_rng(0).gamma(2.0, 1.0, 300)
    values[:3] = 1.0, 8.0, 9.0
    found = error_curve.shares(values)
    for limit, share in zip(error_curve.LIMITS_MM, found):
        assert share == sum(bool(value <= limit) for value in values) / 300
    assert found[-1] < 1.0 and (np.diff(found) >= 0).all()
    # The median of the table is where the curve crosses one half.
    crossing = np.interp(0.5, found, error_curve.LIMITS_MM)
    assert crossing == pytest.approx(np.median(values), abs=0.05)


def test_the_drawing_holds_each_curve_where_its_numbers_say():
    lines = {f"set {number} <&>": np.linspace(0.0, 1.0 - 0.1 * number, 161).tolist() for number in range(9)}
    root = ElementTree.fromstring(error_curve.svg(lines))
    space = "{http://www.w3.org/2000/svg}"
    drawn = root.findall(f"{space}polyline")
    assert len(drawn) == 9
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in drawn}) == 9, "no two look the same"
    for number, line in enumerate(drawn):
        points = [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
        assert points[0] == (error_curve.LEFT, error_curve.BOTTOM)
        top = error_curve.BOTTOM - (error_curve.BOTTOM - error_curve.TOP) * (1.0 - 0.1 * number)
        assert points[-1] == (error_curve.RIGHT, pytest.approx(top, abs=0.06))
    names = [text.text for text in root.findall(f"{space}text")]
    assert set(lines) <= set(names) and "distance, millimetres" in names


def test_only_whole_sets_have_a_curve_and_every_set_a_row(tmp_path):
    half = np.linspace(0.0, 1.0, 161).tolist()
    figures = {"header": HEADER, "photos": {}, "truth": {"a": whole(half), "b": row(refused="1 of 2 faces.")}}
    assert list(curves(figures["truth"])) == ["a", "a: mean face"]
    accuracy.write(figures, tmp_path)
    page = (tmp_path / "accuracy.md").read_text()
    assert f"]({accuracy.CURVES})" in page and (tmp_path / accuracy.CURVES).read_text().startswith("<svg")
    assert "| ours, a | 1.23 | 1.50 | 0.50 | this run |" in page
    assert "| ours, b | *refused* |" in page
    assert "| MGCNet | 1.31 | 1.87 | 2.63 |" in page
    del figures["truth"]["a"]
    accuracy.write(figures, tmp_path)
    assert not (tmp_path / accuracy.CURVES).exists(), "no drawing of an earlier run stays"
    assert accuracy.CURVES not in markdown(figures)


def test_published_rows_fill_their_tables_and_name_their_source():
    tables = [(published.NOW, 3), (published.AFLW2000, 4), (published.MEAD, 1)]
    tables += [(rows, 5) for rows in published.REALY.values()]
    for rows, width in tables:
        assert len({item.method for item in rows}) == len(rows)
        for item in rows:
            assert len(item.figures) == width and item.source
            assert len(published.cells(item, 2)) == width + 2
    for rows in published.REALY.values():
        for item in rows:
            if None not in item.figures:
                # "All" is the mean of the four regions, to their rounding; where it is not, the page says so.
                consistent = item.figures[4] == pytest.approx(np.mean(item.figures[:4]), abs=1.1e-3)
                assert consistent is not (published.AS_PRINTED in item.source), item.method
    whole_rows = [item.figures for item in published.AFLW2000 if None not in item.figures]
    for *bins, mean in whole_rows:
        assert mean == pytest.approx(np.mean(bins), abs=0.011), "the mean of the three bins, balanced"
