"""The reader of checkpoints: against one that TensorFlow wrote, against a plain writer, against damage."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import append_block, crc32c, field, masked_crc, message, table_file, write_checkpoint

from backend.errors import WeightsError
from backend.network import tf_checkpoint
from backend.network.tf_checkpoint import Checkpoint, DamagedError, masked_crc32c, parse_index

# Seven variables saved by TensorFlow 2.15.1 (`tf.compat.v1.train.Saver`), 474 bytes in two files.
TENSORFLOW_INDEX = (
    "000IE0U81b0RRmV0CQ|<V`XFj0RaJkf(QW;1QG%W0w7T+2sP;AMp+925rTpU0TKif0tf;iSttlK=;KCN00t9eZ*^j9We5Ti2oeGa"
    "0ullU0VohPlHaoK00j|cZE$pX2mulX5&#kc2m>GxHQ4Hcq5uRDW^7?+2nrGe5&{STAP^`4H3cguLjVg6XKZg`VQgP>bY*Y|2@(Jx"
    "5hw^X8Ib~g02vW-Wpi$2bYFHcUo|i<V{dMDF)w0iVRL132mulV5&{SUAQ>nKHB?u^EE5MEcV%g3XmoQ30TK`r0tf*T0tf;U0tf>V"
    "0tf;iAt*34cGD9M00tIwY-wX<WC#Hg1QG%W1Udu?0uTZ^1_}fS0uTZK0000100000CObEo000000RR910KoF0umAxAbO56Q00000"
    "0RR910PCB@QK$k4wE_<S000000000000000000000000000000000000000009X5fizIbN+W"
)
TENSORFLOW_DATA = (
    "RaI40RaMnLoOJ+*Jmfe20e~6?0000000000KL7v#zyJUM00000J^%oKJ^%o~J^%m!KL7wAKL7wgKL7w=KL7xLKL7xbKL7xrKL7x*"
    "KL7xLKL7xLKL7xLKL7xLKL"
)


@pytest.fixture
def by_tensorflow(tmp_path: Path) -> Path:
    (tmp_path / "model.index").write_bytes(base64.b85decode(TENSORFLOW_INDEX))
    (tmp_path / "model.data-00000-of-00001").write_bytes(base64.b85decode(TENSORFLOW_DATA))
    return tmp_path


def some_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    tensors = {f"net/block{i}/unit_{i}/weights": rng.normal(size=(i % 4, 2, 3)).astype(np.float32) for i in range(40)}
    return {**tensors, "step": np.array(7, np.int64), "count": np.arange(5, dtype=np.int32), "d": rng.normal(size=4)}


def assert_refused(path: Path, fragment: str) -> None:
    with pytest.raises(WeightsError) as caught:
        checkpoint = Checkpoint(path)
        for name in checkpoint.entries:
            checkpoint.read(name)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and fragment in message, message


def test_what_tensorflow_wrote(by_tensorflow: Path) -> None:
    """A checkpoint with all 108 tensors, counters, optimiser slots and normal buffers, written by TensorFlow 2.15.1
    from slim's own graph, was read once too, and every number was the same."""
    checkpoint = Checkpoint(by_tensorflow)
    assert checkpoint.prefix == by_tensorflow / "model"
    weights = checkpoint.read("resnet_v1_50/conv1/weights")
    np.testing.assert_array_equal(weights, np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2) / 8)
    np.testing.assert_array_equal(checkpoint.read("resnet_v1_50/conv1/biases"), np.float32([0.5, -2]))
    np.testing.assert_array_equal(checkpoint.read("double"), [[1 / 3], [-1e300]])
    assert checkpoint.read("global_step") == 400000 and checkpoint.read("global_step").dtype == np.int64
    assert checkpoint.read("empty").shape == (0, 3)
    with pytest.raises(WeightsError, match="type 10, which no network here uses"):
        checkpoint.read("flag")
    with pytest.raises(WeightsError, match="stored in slices"):
        checkpoint.read("sliced")
    assert list(checkpoint.entries) == sorted(checkpoint.entries) and len(checkpoint.entries) == 7


@pytest.mark.parametrize(("shards", "block_bytes"), [(1, 4096), (1, 1), (3, 200), (12, 64)])
def test_what_a_plain_writer_wrote(tmp_path: Path, shards: int, block_bytes: int) -> None:
    tensors = some_tensors()
    write_checkpoint(tmp_path / "net-1.5", tensors, shards, block_bytes)
    checkpoint = Checkpoint(tmp_path / "net-1.5")
    assert checkpoint.shards == shards and set(checkpoint.entries) == set(tensors)
    for name, tensor in tensors.items():
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype and read.shape == tensor.shape
        np.testing.assert_array_equal(read, tensor)
    with pytest.raises(KeyError):
        checkpoint.read("nosuch")


def test_checksum_against_its_slow_twin() -> None:
    """The published check value of CRC-32C, and random bytes."""
    assert crc32c(b"123456789") == 0xE3069283
    rng = np.random.default_rng(4)
    for length in (0, 1, 2, 9, 1000):
        data = rng.bytes(length)
        assert masked_crc32c(data) == masked_crc(data)


@pytest.mark.parametrize("name", ["", "model", "model.index", "model.data-00000-of-00001", "model.meta"])
def test_folder_prefix_or_file(by_tensorflow: Path, name: str) -> None:
    assert Checkpoint(by_tensorflow / name).prefix == by_tensorflow / "model"


def test_the_latest_of_several(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_checkpoint(tmp_path / f"model-{number}", {"step": np.array(number, np.int64)})
    assert_refused(tmp_path, "several checkpoints (model-1, model-2, model-3)")
    for noted in ("model-2", "/home/somebody/model-2", "C:\\models\\model-2"):
        (tmp_path / "checkpoint").write_text(
            f'model_checkpoint_path: "{noted}"\nall_model_checkpoint_paths: "model-1"\n'
        )
        assert Checkpoint(tmp_path).read("step") == 2
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-9"\n')
    assert_refused(tmp_path, "several checkpoints")


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    assert_refused(tmp_path, "holds no checkpoint")
    assert_refused(tmp_path / "nosuch", "There is no checkpoint")
    (tmp_path / "model.ckpt").write_bytes(b"the old form is one file")
    assert_refused(tmp_path / "model.ckpt", "no model.ckpt.index beside it")
    (tmp_path / "text.index").write_text("not a table at all, but long enough to hold a footer of 48 bytes")
    assert_refused(tmp_path, "is not the index of a TensorFlow checkpoint")
    (tmp_path / "text.index").write_bytes(b"")
    assert_refused(tmp_path, "is not the index of a TensorFlow checkpoint")


def test_too_large_an_index_is_not_even_read(by_tensorflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_checkpoint, "LARGEST_INDEX", 300)
    assert_refused(by_tensorflow, "too large")


def test_every_changed_byte_of_the_index_is_noticed(by_tensorflow: Path) -> None:
    """Whatever byte is wrong, nothing but DamagedError or IndexError comes out, and no other content."""
    content = (by_tensorflow / "model.index").read_bytes()
    right = parse_index(content)
    unused = 0
    for place in range(len(content)):
        for change in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= change
            try:
                assert parse_index(bytes(damaged)) == right
                unused += 1  # the place of the block of filters, and the padding of the footer
            except (DamagedError, IndexError):
                continue
    assert unused < 100
    for length in range(len(content)):
        with pytest.raises((DamagedError, IndexError)):
            parse_index(content[:length])


def test_messages_of_wrong_forms_with_right_checksums(tmp_path: Path) -> None:
    """Random messages as entries: refused or read, never anything else."""
    rng = np.random.default_rng(5)
    outcomes = set()
    for _ in range(400):
        table = {b"": b"\x08\x01", b"a": rng.bytes(rng.integers(0, 12))}
        try:
            parse_index(table_file(table))
            outcomes.add("read")
        except (DamagedError, IndexError) as error:
            outcomes.add(str(error))
    assert len(outcomes) > 4


@pytest.mark.parametrize(
    ("header", "fragment"),
    [(b"", "names no data files"), (b"\x08\x00", "names no data files"), (b"\x08\x01\x10\x01", "big-endian")],
)
def test_headers(header: bytes, fragment: str) -> None:
    with pytest.raises(DamagedError, match=fragment):
        parse_index(table_file({b"": header, b"a": b""}))


def test_a_compressed_table() -> None:
    content, handle = append_block(b"", {b"": b"\x08\x01"}, compression=1)
    content, index = append_block(content, {b"a": handle})
    footer = (b"\0\0" + index).ljust(40, b"\0") + tf_checkpoint.TABLE_MAGIC.to_bytes(8, "little")
    with pytest.raises(DamagedError, match="compressed"):
        parse_index(content + footer)


def test_damaged_data(by_tensorflow: Path) -> None:
    """The two tensors that cannot be read are left out: they are refused for another reason."""
    data = by_tensorflow / "model.data-00000-of-00001"
    content = data.read_bytes()
    for place in (0, 20, 30, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 4
        data.write_bytes(bytes(damaged))
        checkpoint = Checkpoint(by_tensorflow)
        said = []
        for name in ("double", "global_step", "resnet_v1_50/conv1/biases", "resnet_v1_50/conv1/weights"):
            try:
                checkpoint.read(name)
            except WeightsError as error:
                said.append(str(error))
        # The last bytes are those of the sliced variable.
        assert len(said) == (place < 81) and all("is damaged; copy" in message for message in said)
    data.write_bytes(content[:60])
    with pytest.raises(WeightsError, match="cut off"):
        Checkpoint(by_tensorflow).read("resnet_v1_50/conv1/weights")
    data.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        Checkpoint(by_tensorflow).read("global_step")


@pytest.mark.parametrize("sides", [(0, 2**64 - 1), (1,) * 70, (2**32, 2**32), (2,)])
def test_impossible_shapes(tmp_path: Path, sides: tuple[int, ...]) -> None:
    """The checksums are right, and what was stored is one float32, or nothing where a side is 0."""
    data = b"" if 0 in sides else bytes(4)
    shape = b"".join(field(2, message((1, side))) for side in sides)
    entry = message((1, 1), (2, shape), (5, len(data))) + b"\x35" + masked_crc(data).to_bytes(4, "little")
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    (tmp_path / "m.index").write_bytes(table_file({b"": b"\x08\x01", b"a": entry}))
    assert_refused(tmp_path, 'The tensor "a" in')
