"""In which order photos are computed, and that what is computed twice is told once."""

from __future__ import annotations

from typing import Any

from backend.server.compute import Compute
from backend.server.jobs import BATCH_PHOTOS, DEFAULT_OPTIONS, Job, JobPhoto, JobQueue


def job(id: str, client: bytes, photos: int, priority: int = 1, **options: Any) -> Job:
    return Job(
        id,
        client,
        {**DEFAULT_OPTIONS, **options},
        [JobPhoto(index, f"{index}.jpg", f"/{id}/{index}.jpg") for index in range(photos)],
        priority,
    )


def queue_of(*jobs: Job) -> JobQueue:
    queue = JobQueue()
    for one in jobs:
        queue.add(one)
    return queue


def names(batch: list[tuple[Job, JobPhoto]]) -> list[tuple[str, int]]:
    return [(one.id, photo.index) for one, photo in batch]


def end(batch: list[tuple[Job, JobPhoto]]) -> None:
    for one, photo in batch:
        one.end(photo)


def test_a_large_job_leaves_room_for_a_small_one():
    queue = queue_of(job("large", b"A", 100))
    end(queue.next_batch())
    queue.add(job("small", b"B", 1))
    assert ("small", 0) in names(queue.next_batch())


def test_clients_take_turns_photo_by_photo():
    queue = queue_of(job("a", b"A", 20), job("b", b"B", 20), job("c", b"C", 1))
    batch = names(queue.next_batch())
    assert len(batch) == BATCH_PHOTOS
    assert batch[:5] == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1)]


def test_many_jobs_do_not_make_a_client_more_important():
    queue = queue_of(*[job(f"a{index}", b"A", 1) for index in range(50)], job("b", b"B", 4))
    batch = names(queue.next_batch())
    assert [name for name, _ in batch].count("b") == BATCH_PHOTOS // 2


def test_a_clients_jobs_go_in_their_order():
    queue = queue_of(job("first", b"A", 3), job("second", b"A", 3))
    assert names(queue.next_batch()) == [("first", 0), ("first", 1), ("first", 2)] + [("second", n) for n in range(3)]


def test_the_higher_priority_goes_first():
    queue = queue_of(job("background", b"A", 3, priority=0), job("click", b"B", 2), job("now", b"A", 1, priority=2))
    assert [name for name, _ in names(queue.next_batch())] == ["now", "click", "click"] + ["background"] * 3


def test_only_photos_with_the_same_options_share_a_batch():
    queue = queue_of(job("a", b"A", 2), job("b", b"B", 2, texture_size=0), job("c", b"C", 2, stages=["detect"]))
    batches = [names(queue.next_batch()) for _ in range(4)]
    assert sorted(batches) == [[], [("a", 0), ("a", 1)], [("b", 0), ("b", 1)], [("c", 0), ("c", 1)]]


def test_large_textures_go_in_smaller_batches():
    assert len(queue_of(job("a", b"A", 8, texture_size=4096)).next_batch()) == 2
    assert len(queue_of(job("a", b"A", 8, texture_size=4096, normal_map=True)).next_batch()) == 1
    assert len(queue_of(job("a", b"A", 8, texture_size=0)).next_batch()) == 8


def test_a_photo_that_the_worker_died_at_goes_alone():
    first = job("a", b"A", 4)
    queue = queue_of(first, job("b", b"B", 1))
    batch = queue.next_batch()
    for one, photo in batch:
        photo.attempts += one is first
        one.take_back([photo])
    sizes = [len(queue.next_batch()) for _ in range(6)]
    assert sorted(sizes) == [0, 1, 1, 1, 1, 1]


def test_what_is_taken_back_comes_first_and_in_order():
    one = job("a", b"A", 12)
    queue = queue_of(one)
    batch = queue.next_batch()
    one.end(batch[0][1])
    one.take_back([photo for _, photo in batch[1:]])
    assert [index for _, index in names(queue.next_batch())] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_client_that_does_not_read_is_held_back():
    queue = queue_of(job("a", b"A", 2), job("b", b"B", 2))
    assert {name for name, _ in names(queue.next_batch([b"A"]))} == {"b"}
    assert {name for name, _ in names(queue.next_batch())} == {"a"}


def test_a_removed_job_leaves_nothing():
    one = job("a", b"A", 2)
    queue = queue_of(one)
    queue.remove(one)
    assert not queue.jobs and not queue.turns and queue.next_batch() == []


def test_a_face_that_was_told_is_not_told_again():
    """The worker died between the first face of a photo and its end, and another computes it from the beginning."""
    told: list[str] = []
    compute = Compute.__new__(Compute)  # without its worker process
    compute.queue = queue_of(one := job("a", b"1", photos=1))
    compute.tell = lambda job, frames: bool(told.append(bytes(frames[1]).decode())) or True
    for _ in range(2):
        compute.queue.next_batch(())
        for face in (0, 1):
            header = {"client": b"1".hex(), "id": "a", "photo": 0, "face": face}
            compute._hear_of_job("face", header, [bytearray()] * 2)
        one.take_back(list(one.running.values()))
    assert len(told) == 2 and one.faces == 2


def test_photos_of_one_person_are_a_batch_of_their_own():
    person = job("person", b"A", 20, same_person=True)
    queue = queue_of(job("before", b"B", 1), person, job("like it", b"C", 3, same_person=True), job("after", b"D", 1))
    batches = [names(queue.next_batch()) for _ in range(4)]
    assert sorted(batches, key=len) == [
        [],
        [("before", 0), ("after", 0)],
        [("like it", index) for index in range(3)],
        [("person", index) for index in range(20)],
    ]
    person.take_back(person.photos)
    for photo in person.photos:
        photo.attempts = 1
    assert len(queue.next_batch()) == 20, "a second try is with all of them too"


def test_a_person_whose_head_has_gone_out_is_not_computed_again():
    """The worker died between the head and its word on the last photos."""
    told: list[str] = []
    compute = Compute.__new__(Compute)
    compute.queue = queue_of(one := job("a", b"1", 3, same_person=True))
    compute.tell = lambda job, frames: bool(told.append(bytes(frames[1]).decode())) or True
    compute.batch_photos = compute.queue.next_batch(())
    compute.worker, compute.device, compute.unable, compute.batch, compute.kill_at = None, "cpu", "", "b", None
    compute.start_worker = lambda: None
    compute._hear_of_job("face", {"client": b"1".hex(), "id": "a", "photo": 1, "face": 0}, [bytearray()] * 2)
    compute._worker_ended(type("Dead", (), {"pid": 1, "end_reason": lambda self: "signal 9"})())
    assert one.faces == 1 and not compute.queue.jobs and '"done"' in told[-1]
