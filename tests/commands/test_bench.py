"""``mgcface bench``: the report is whole and its figures hang together."""

from __future__ import annotations

import json

from bad_photos import no_face

from backend.commands import bench

STAGES = {"decode", "detect", "fit", "refine", "total"}


def test_report(mgcface, capfd, monkeypatch):
    monkeypatch.setattr(bench, "COLD_RUNS", 2)
    arguments = ("--repeats", 1, "--many", 2, "--texture", "none", "--json")
    assert mgcface("bench", *arguments) == 0
    document = json.loads(capfd.readouterr().out)
    header, one, many = document["header"], document["one_photo_ms"], document["many_photos_ms"]
    assert {"mgcface", "commit", "cpu", "cores", "device", "python", "torch", "mediapipe", "model"} <= set(header)
    assert header["photo"] == "astronaut.jpg 512x512"
    assert STAGES | {"write"} <= set(one) and STAGES <= set(many) and "texture" not in one
    assert one["total"] > one["detect"] > 0
    assert many["photos"] == 2 and many["total"] >= many["detect"]
    cold = document["cold_start_ms"]
    assert cold["reconstruct"] > cold["help"] > 0
    served = document["server_ms"]
    assert 0 < served["listening"] < served["ready"] and 0 < served["transport"] < served["over_engine"]
    assert document["peak_memory_mb"]["cold_start"] is None or document["peak_memory_mb"]["cold_start"] > 100


def test_table(capsys):
    document = {
        "header": {"mgcface": "9.9.9", "cpu": "Abacus"},
        "cold_start_ms": {"help": 90.0, "reconstruct": 4000.0, "reconstruct_first": 5000.0},
        "one_photo_ms": {"detect": 20.0, "total": 50.0, "write": 300.0},
        "many_photos_ms": {"photos": 64, "detect": 640.0, "total": 1600.0, "share_of_single_calls": 0.5},
        "server_ms": {"listening": 250.0, "ready": 4300.0, "over_engine": 31.0, "transport": 9.0},
        "peak_memory_mb": {"cold_start": 700.0, "bench": 800.0},
    }
    bench.show(document)
    said = capsys.readouterr().out
    for words in ("Abacus", "64 photos", "25.0", "4000 ms", "700 MB", "0.50", "4300 ms", "31 ms"):
        assert words in said


def test_a_photo_without_a_face_cannot_be_measured(mgcface, capfd, monkeypatch, tmp_path):
    no_face(tmp_path / "noise.png")
    assert mgcface("bench", "--photo", tmp_path / "noise.png") == 1
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert "No face" in error


def test_a_missing_photo_is_wrong_usage(mgcface, capfd, tmp_path):
    assert mgcface("bench", "--photo", tmp_path / "gone.jpg") == 2
    assert "--photo" in capfd.readouterr().err


def test_a_stage_that_is_none_is_wrong_usage(mgcface, capfd):
    assert mgcface("bench", "--stages", "detect,dream") == 2
    assert "no stage 'dream'" in capfd.readouterr().err
