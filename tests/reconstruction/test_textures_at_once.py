"""Textures of a group are made side by side and handed out one after another."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from backend.errors import Cancelled, PhotoError
from backend.reconstruction import pipeline as module
from backend.reconstruction import texture_raster
from backend.reconstruction.outcome import PhotoOutcome, Steps
from backend.reconstruction.pipeline import Pipeline


@pytest.fixture
def group(monkeypatch) -> list[PhotoOutcome]:
    monkeypatch.setattr(module, "replace", lambda head, **changes: SimpleNamespace(**{**vars(head), **changes}))
    monkeypatch.setattr(module, "warm_up", lambda model, size: None)
    monkeypatch.setattr(module, "thread_count", lambda: 2)
    heads = [SimpleNamespace(number=k, texture=None, timings_ms={}) for k in range(7)]
    return [PhotoOutcome(k, None, SimpleNamespace(), [head]) for k, head in enumerate(heads)]


def pipeline(bake) -> Pipeline:
    made = object.__new__(Pipeline)
    made.model, made.texture_size, made.bake, made.stop = None, 1024, bake, threading.Event()
    made.stages = ("detect", "fit", "texture")
    return made


def test_photos_come_in_order_whichever_is_done_first(group):
    running, most = set(), []
    lock = threading.Lock()

    def bake(photo, head):
        with lock:
            running.add(head.number)
            most.append(len(running))
        time.sleep(0.03 if head.number % 2 == 0 else 0.005)
        with lock:
            running.discard(head.number)
        return f"texture {head.number}"

    outcomes = list(pipeline(bake).finished(group, Steps(None, None)))
    assert [outcome.index for outcome in outcomes] == list(range(7))
    assert [outcome.reconstructions[0].texture for outcome in outcomes] == [f"texture {k}" for k in range(7)]
    assert max(most) == 2


def test_a_photo_without_a_texture_stops_no_other(group):
    def bake(photo, head):
        if head.number == 2:
            raise PhotoError("The fitted head lies outside the photo.")

    group[4].reconstructions, group[4].error = [], PhotoError("No face.")
    outcomes = list(pipeline(bake).finished(group, Steps(None, None)))
    assert [outcome.index for outcome in outcomes if outcome.error] == [2, 4]
    assert outcomes[2].reconstructions == [] and all(outcomes[k].reconstructions for k in (0, 1, 3, 5, 6))


def test_a_request_to_stop_begins_no_further_texture(group):
    begun, heard = [], []
    photos = pipeline(lambda photo, head: begun.append(head.number)).finished(group, Steps(None, lambda: bool(heard)))
    next(photos)
    heard.append("stop")
    with pytest.raises(Cancelled):
        list(photos)
    assert set(begun) <= {0, 1, 2}


def test_a_request_to_stop_reaches_a_texture_in_the_making(group):
    """The work asks the pipeline's flag; the flag is raised from the caller's thread and lowered for the next call."""
    begun, stopped = threading.Event(), []

    def bake(photo, head):
        begun.set()
        stopped.append(made.stop.wait(timeout=20.0))

    made = pipeline(bake)
    with pytest.raises(Cancelled):
        list(made.finished(group, Steps(None, begun.is_set)))
    assert stopped and all(stopped)
    assert not made.stop.is_set()


def test_bands_of_one_thread_and_of_all_paint_the_same(monkeypatch):
    monkeypatch.setattr(texture_raster, "thread_count", lambda: 2)

    def rows(count=101):
        calls, threads = np.zeros(count, int), set()

        def work(first, end):
            calls[first:end] += 1
            threads.add(threading.get_ident())

        texture_raster.in_bands(count, work)
        return calls, threads

    assert (rows()[0] == 1).all() and threading.get_ident() not in rows()[1]
    with texture_raster.serial_bands():
        calls, threads = rows()
        assert (calls == 1).all() and threads == {threading.get_ident()}
        with texture_raster.serial_bands():
            pass
        assert rows()[1] == {threading.get_ident()}
    assert threading.get_ident() not in rows()[1]


def test_one_photo_alone_is_made_by_all_cores(group):
    serial = []
    baker = pipeline(lambda photo, head: serial.append(getattr(texture_raster._this_thread, "serial", False)))
    list(baker.finished(group[:1], Steps(None, None)))
    assert serial == [False]
    list(baker.finished(group[1:], Steps(None, None)))
    assert serial[1:] == [True] * 6


def test_progress_is_told_in_the_callers_thread(group):
    told = []
    steps = Steps(lambda index, stage, part: told.append((index, stage, threading.current_thread())), None)
    list(pipeline(lambda photo, head: None).finished(group, steps))
    assert {thread for _, _, thread in told} == {threading.current_thread()}
    assert [index for index, stage, _ in told if stage == "done"] == list(range(7))
