"""Messages as frames: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.protocol.wire import (
    DTYPES,
    MAGIC,
    MAX_ARRAYS,
    MAX_HEADER_BYTES,
    Message,
    ProtocolError,
    decode,
    encode,
    peek_id,
    peek_type,
)

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
arrays = st.tuples(st.sampled_from(sorted(DTYPES)), shapes, st.integers(0, 2**32 - 1)).map(
    lambda drawn: np.random.default_rng(drawn[2]).integers(0, 255, drawn[1]).astype(DTYPES[drawn[0]])
)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = st.text("abcdefgh", min_size=1, max_size=6)


def as_bytes(frames: list) -> list[bytes]:
    return [bytes(frame) for frame in frames]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, values, max_size=4), st.dictionaries(names, arrays, max_size=4))
def test_what_goes_in_comes_out(body, content):
    body = {key: value for key, value in body.items() if key not in ("type", "id", "arrays")}
    message = decode(as_bytes(encode(Message("face", "job-1", body, content))))
    assert (message.type, message.id, message.body) == ("face", "job-1", body)
    assert set(message.arrays) == set(content)
    for name, array in content.items():
        assert message.arrays[name].dtype == array.dtype and message.arrays[name].shape == array.shape
        assert np.array_equal(message.arrays[name], array)


def test_arrays_of_any_layout_arrive_as_they_look():
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    content = {"turned": base.T, "strided": base[:, ::2], "big_endian": base.astype(">f4")}
    message = decode(as_bytes(encode(Message("face", "", {}, content))))
    for name, array in content.items():
        assert np.array_equal(message.arrays[name], array)
        assert not message.arrays[name].flags.writeable


def header(**changes: object) -> bytes:
    return json.dumps({"type": "ping", "id": "1", "arrays": [], **changes}).encode()


def entry(**changes: object) -> dict[str, object]:
    return {"name": "a", "dtype": "f4", "shape": [2], **changes}


WRONG = {
    "nothing": [],
    "one frame": [MAGIC],
    "another program": [b"GET / HTTP/1.1", header()],
    "older protocol": [b"MGCF/0", header()],
    "newer protocol": [b"MGCF/2", header()],
    "no JSON": [MAGIC, b"\x80\x04N."],
    "no UTF-8": [MAGIC, b'{"type": "\xff"}'],
    "no object": [MAGIC, b"[]"],
    "NaN": [MAGIC, b'{"type": "ping", "x": NaN}'],
    "deep": [MAGIC, b'{"type":' + b"[" * 100000],
    "huge number": [MAGIC, b'{"type": "ping", "x": ' + b"9" * 10000 + b"}"],
    "large header": [MAGIC, b" " * (MAX_HEADER_BYTES + 1)],
    "no type": [MAGIC, b"{}"],
    "type of another kind": [MAGIC, header(type=["ping"])],
    "type with a path": [MAGIC, header(type="../ping")],
    "id with a path": [MAGIC, header(id="../../x")],
    "id of another kind": [MAGIC, header(id=7)],
    "too many frames": [MAGIC, header(), *[b""] * (MAX_ARRAYS + 1)],
    "array not sent": [MAGIC, header(arrays=[entry()])],
    "array not described": [MAGIC, header(), b"12345678"],
    "too few bytes": [MAGIC, header(arrays=[entry()]), b"1234567"],
    "too many bytes": [MAGIC, header(arrays=[entry()]), b"123456789"],
    "object array": [MAGIC, header(arrays=[entry(dtype="O")]), b"12345678"],
    "named type": [MAGIC, header(arrays=[entry(dtype="float32")]), b"12345678"],
    "type is a list": [MAGIC, header(arrays=[entry(dtype=["f4"])]), b"12345678"],
    "negative length": [MAGIC, header(arrays=[entry(shape=[-1, -2])]), b"12345678"],
    "length as a flag": [MAGIC, header(arrays=[entry(shape=[True, 2])]), b"12345678"],
    "length as a fraction": [MAGIC, header(arrays=[entry(shape=[2.0])]), b"12345678"],
    "product overflows": [MAGIC, header(arrays=[entry(shape=[2**62, 4])]), b""],
    "zero times everything": [MAGIC, header(arrays=[entry(shape=[0, 2**62])]), b""],
    "too many dimensions": [MAGIC, header(arrays=[entry(shape=[1, 1, 1, 1, 2])]), b"12345678"],
    "no name": [MAGIC, header(arrays=[entry(name="")]), b"12345678"],
    "two of one name": [MAGIC, header(arrays=[entry(), entry()]), b"12345678", b"12345678"],
    "entry is a text": [MAGIC, header(arrays=["a"]), b"12345678"],
    "arrays is a text": [MAGIC, header(arrays="a")],
    "pickle": [MAGIC, pickle.dumps({"type": "ping"})],
}


@pytest.mark.parametrize("frames", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_refused_in_one_sentence(frames):
    with pytest.raises(ProtocolError) as caught:
        decode(frames)
    sentence = str(caught.value)
    assert sentence.endswith((".", ";")) and "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize(("version", "who"), [(b"MGCF/0", "the program that sent it"), (b"MGCF/2", "this one")])
def test_another_version_says_which_side_to_update(version, who):
    with pytest.raises(ProtocolError, match=who) as caught:
        decode([version, header()])
    assert caught.value.code == "version"


def test_a_message_over_the_limit_is_refused_before_it_is_sent_and_after():
    frames = encode(Message("face", "job", {}, {"a": np.zeros(1000, np.uint8)}))
    for attempt in (
        lambda: encode(Message("face", "job", {}, {"a": np.zeros(1000, np.uint8)}), limit=500),
        lambda: decode(as_bytes(frames), limit=500),
    ):
        with pytest.raises(ProtocolError) as caught:
            attempt()
        assert (caught.value.code, caught.value.job) == ("too_large", "job")


@pytest.mark.parametrize(
    "message",
    [
        Message("Face"),
        Message("face", "a/b"),
        Message("face", "", {"type": "x"}),
        Message("face", "", {"x": float("nan")}),
        Message("face", "", {"x": b"bytes"}),
        Message("face", "", {}, {"a": np.array([object()])}),
        Message("face", "", {}, {"a": np.zeros(2, np.float16)}),
        Message("face", "", {}, {"": np.zeros(2, np.uint8)}),
    ],
)
def test_what_has_no_form_on_the_wire_is_not_sent(message):
    with pytest.raises(ProtocolError):
        encode(message)


def test_an_answer_can_name_the_broken_message():
    frames = [MAGIC, header(type="reconstruct", id="job-7", arrays=[entry()]), b"short"]
    assert (peek_id(frames), peek_type(frames)) == ("job-7", "reconstruct")
    assert (peek_id([b"x"]), peek_type([b"x"])) == ("", "")


# Hypothesis chooses seeds, each of which makes this many messages: ten thousand take seconds that way.
MESSAGES_PER_SEED = 50


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_frames_are_refused_and_nothing_else(seed):
    source = random.Random(seed)
    for _ in range(MESSAGES_PER_SEED):
        frames = [source.randbytes(source.randint(0, 64)) for _ in range(source.randint(0, 5))]
        with pytest.raises(ProtocolError):
            decode([MAGIC, *frames] if source.random() < 0.5 else frames)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mutated_frames_are_refused_or_still_a_message(seed):
    source = random.Random(seed)
    for _ in range(MESSAGES_PER_SEED):
        frames = [MAGIC, header(arrays=[entry(), entry(name="b", dtype="u1", shape=[3])]), b"12345678", b"123"]
        try:
            message = decode(mutated(source, frames))
        except ProtocolError:
            continue
        assert isinstance(message.body, dict) and all(isinstance(a, np.ndarray) for a in message.arrays.values())


def mutated(source: random.Random, frames: list[bytes]) -> list[bytes]:
    """The frames with up to a dozen bytes changed or put in."""
    frames = list(frames)
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(frames))
        frame = bytearray(frames[place])
        for _ in range(source.randint(1, 4)):
            if frame and source.random() < 0.7:
                frame[source.randrange(len(frame))] = source.randrange(256)
            else:
                frame.insert(source.randint(0, len(frame)), source.randrange(256))
        frames[place] = bytes(frame)
    return frames
