"""Installing: from files, from a server of the test's own, and everything that goes wrong on the way."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from small_head import build_head
from test_adapters import flame_arrays, gnm_arrays, write_bfm, write_npz

from backend.errors import Cancelled, MgcFaceError, ModelError, OutputError
from backend.face_model import download, install, registry
from backend.face_model.adapters.bfm09 import read_bfm09
from backend.face_model.commands import install as install_command
from backend.face_model.commands import model_details, models_table
from backend.face_model.download import RemoteFile, fetch_all
from backend.face_model.file_format import load_model, save_model
from backend.face_model.install import install_model
from backend.face_model.registry import find_model, get_model, list_models


def leftovers(home: Path) -> list[str]:
    folder = home / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``mode`` says how to misbehave."""

    files: dict[str, bytes]
    mode: str


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None or self.server.mode == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.server.mode == "gzip" and "gzip" in self.headers.get("Accept-Encoding", ""):
            content = gzip.compress(content)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.mode == "cut" else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.files, running.mode = {}, "fine"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def remote(path: str, content: bytes) -> RemoteFile:
    return RemoteFile(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def gnm(server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small GNM file on the server and its checksum in the installer; the server's address."""
    content = write_npz(tmp_path / "gnm_head.npz", gnm_arrays()).read_bytes()
    server.files["v3_0/gnm_head.npz"] = content
    monkeypatch.setattr(install, "GNM_FILES", [remote("v3_0/gnm_head.npz", content)])
    return address(server)


@pytest.mark.parametrize("mode", ["fine", "gzip"])
def test_download(gnm: str, server: Server, home: Path, mode: str) -> None:
    server.mode = mode
    steps: list[float] = []
    path = install_model("gnm-head", progress=lambda share, _text: steps.append(share), base_url=gnm)
    assert path == home / "models" / "gnm-head.safetensors" and leftovers(home) == [path.name]
    assert steps == sorted(steps) and steps[-1] == 1.0 and 0 < steps[0] < 1
    model = get_model("gnm-head")
    assert set(model.landmarks) == {"ibug68", "mediapipe478", "now7"} and "nose" in model.regions
    # The test's GNM file is the test's head: its landmarks must be found where they were.
    expected = build_head().landmark_points(build_head().mean, "mediapipe478")
    np.testing.assert_allclose(model.landmark_points(model.mean, "mediapipe478"), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("mode", "fragment"), [("missing", "the server answered 404"), ("cut", "could not be downloaded|did not arrive")]
)
def test_bad_server(gnm: str, server: Server, home: Path, mode: str, fragment: str) -> None:
    server.mode = mode
    with pytest.raises(ModelError, match=fragment):
        install_model("gnm-head", base_url=gnm)
    assert leftovers(home) == []


@pytest.mark.parametrize("change", [lambda old: old[:-1] + b"?", lambda old: old + b"more", lambda old: old[:-9]])
def test_wrong_checksum(gnm: str, server: Server, home: Path, change) -> None:
    server.files["v3_0/gnm_head.npz"] = change(server.files["v3_0/gnm_head.npz"])
    with pytest.raises(ModelError, match="SHA-256 differs"):
        install_model("gnm-head", base_url=gnm)
    assert leftovers(home) == []


def test_no_server(gnm: str, server: Server, home: Path) -> None:
    with Server(("127.0.0.1", 0), Handler) as closed:
        nowhere = address(closed)
    with pytest.raises(ModelError, match="could not be downloaded"):
        install_model("gnm-head", base_url=nowhere)
    assert leftovers(home) == []


def test_cancel_leaves_nothing(gnm: str, home: Path) -> None:
    """Cancelled at every place where the installer asks."""
    asked: list[int] = []

    def cancel_at(last: int) -> bool:
        asked.append(1)
        return len(asked) == last

    install_model("gnm-head", base_url=gnm, cancel=lambda: cancel_at(0)).unlink()
    places = len(asked)
    assert places == 3  # the one chunk of the small file, before completing, before writing
    for last in range(1, places + 1):
        asked.clear()
        with pytest.raises(Cancelled):
            install_model("gnm-head", base_url=gnm, cancel=lambda last=last: cancel_at(last))
        assert leftovers(home) == []


def test_full_disk_while_downloading(gnm: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_keywords: object):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(OutputError, match="is full"):
        install_model("gnm-head", base_url=gnm)
    assert leftovers(home) == []


def test_too_little_space_is_seen_before(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="are needed"):
        fetch_all("http://127.0.0.1:1", [RemoteFile("a", 1 << 60, "")], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_old_model_survives_a_failed_installation(gnm: str, server: Server, home: Path) -> None:
    path = install_model("gnm-head", base_url=gnm)
    before = path.read_bytes()
    server.mode = "missing"
    with pytest.raises(ModelError):
        install_model("gnm-head", base_url=gnm)
    assert path.read_bytes() == before


def test_many_files_with_one_bad(server: Server, tmp_path: Path) -> None:
    contents = {f"folder/{number}.obj": bytes([number]) * 1000 for number in range(20)}
    server.files = dict(contents)
    files = [remote(path, content) for path, content in contents.items()]
    fetch_all(address(server), files, tmp_path / ".")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {f"{number}.obj" for number in range(20)}
    assert (tmp_path / "folder" / "7.obj").read_bytes() == contents["folder/7.obj"]
    server.files["folder/11.obj"] = b"something else"
    with pytest.raises(ModelError, match=r"11\.obj did not arrive"):
        fetch_all(address(server), files, tmp_path)


def test_ict_facekit_from_a_server(
    ict_source: Path, server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of the real installer, on the real files at hand; the others stand in as the neutral head."""
    from backend.face_model.adapters import ict_facekit

    monkeypatch.setattr(ict_facekit, "IDENTITY_COUNT", 2)
    manifest: dict = {"url": address(server), "files": {}}
    for name in ict_facekit.source_file_names():
        original = ict_source / "FaceXModel" / name
        content = (
            original if original.is_file() else ict_source / "FaceXModel" / "generic_neutral_mesh.obj"
        ).read_bytes()
        server.files[f"FaceXModel/{name}"] = content
        manifest["files"][f"FaceXModel/{name}"] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    (tmp_path / "files.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(install, "ICT_MANIFEST", tmp_path / "files.json")
    row = install_command("ict-facekit")
    assert row["installed"] and row["licence"] == "MIT" and leftovers(home) == ["ict-facekit.safetensors"]
    assert len(get_model("ict-facekit").identity) == 2


def test_from_files(home: Path, tmp_path: Path) -> None:
    write_npz(tmp_path / "gnm_head.npz", gnm_arrays())
    write_npz(tmp_path / "flame.npz", flame_arrays())
    write_bfm(tmp_path / "bfm.h5")
    save_model(build_head(name="mine"), tmp_path / "mine.safetensors")
    for name, source in (
        ("gnm-head", tmp_path),
        ("flame", tmp_path / "flame.npz"),
        ("flame-open", tmp_path / "flame.npz"),
        ("bfm09", tmp_path / "bfm.h5"),
        ("my-head", tmp_path / "mine.safetensors"),
    ):
        assert install_command(name, source)["installed"]
        assert set(get_model(name).landmarks) == {"ibug68", "mediapipe478", "now7"}
        assert get_model(name).info.name == name
    # Networks need to know how far the origin was moved; the file says it.
    installed, source = get_model("bfm09"), read_bfm09(tmp_path / "bfm.h5")
    np.testing.assert_allclose(installed.mean, source.mean + installed.info.extra["moved_m"], atol=1e-6)
    assert np.abs(installed.mean - source.mean).max() > 0.01
    rows = {row["name"]: row for row in models_table()}
    assert [row for row in rows] == ["open-head", "ict-facekit", "gnm-head", "flame-open", "flame", "bfm09", "my-head"]
    assert {name for name, row in rows.items() if not row["commercial"]} == {"flame", "bfm09"}
    assert not rows["ict-facekit"]["installed"] and rows["my-head"]["source"] == "a file of yours"


@pytest.mark.parametrize("name", ["flame", "flame-open", "bfm09"])
def test_what_cannot_be_downloaded_says_where_it_is(home: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"https://.*mgcface models install {name} --from"):
        install_model(name)
    assert leftovers(home) == []


@pytest.mark.parametrize(
    ("name", "source", "fragment"),
    [
        ("open-head", None, "comes with mgcface"),
        ("no-such-model", None, "not a model that mgcface knows"),
        ("../evil", None, "not a model name"),
        ("Bad Name", None, "not a model name"),
        ("gnm-head", "/nowhere/at/all.npz", "does not exist"),
        ("my-head", "/nowhere/at/all.safetensors", "does not exist"),
    ],
)
def test_wrong_requests(home: Path, name: str, source: str | None, fragment: str) -> None:
    with pytest.raises(ModelError, match=fragment):
        install_model(name, source)
    assert leftovers(home) == []


def test_unwritable_home(home: Path, tmp_path: Path) -> None:
    home.write_text("a file where the folder should be")
    write_npz(tmp_path / "gnm_head.npz", gnm_arrays())
    with pytest.raises(OutputError, match="cannot be written"):
        install_model("gnm-head", tmp_path)


def test_get_model_reads_once_and_again_after_a_change(home: Path) -> None:
    first = get_model()
    found: list = []
    threads = [threading.Thread(target=lambda: found.append(get_model("open-head"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(model is first for model in found)
    path = find_model("open-head")
    save_model(build_head(seed=3), path)
    os.utime(path, ns=(1, 1))
    again = get_model(path)
    assert again is not first and not np.array_equal(again.identity, first.identity)


def test_find_model(home: Path, tmp_path: Path) -> None:
    assert find_model("some/folder/x.safetensors") == Path("some/folder/x.safetensors")
    with pytest.raises(ModelError, match='is not installed; run "mgcface models install ict-facekit"'):
        get_model("ict-facekit")
    with pytest.raises(ModelError, match="install flame --from FILE"):
        get_model("flame")
    with pytest.raises(ModelError, match="There is no face model nonsense; known are open-head"):
        get_model("nonsense")
    with pytest.raises(ModelError, match="does not exist"):
        get_model(tmp_path / "none.safetensors")
    find_model("open-head").unlink()
    with pytest.raises(ModelError, match="install mgcface again"):
        get_model()


def test_a_damaged_file_is_listed_with_its_problem(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models" / "gnm-head.safetensors").write_bytes(b"oops, not a model at all")
    row = next(row for row in models_table() if row["name"] == "gnm-head")
    assert not row["installed"] and "gnm-head.safetensors is not a face model" in row["problem"]
    with pytest.raises(MgcFaceError):
        model_details("gnm-head")


def test_the_table_and_the_details_are_json(home: Path) -> None:
    assert json.loads(json.dumps(models_table())) == models_table()
    details = model_details("open-head")
    assert json.loads(json.dumps(details)) == details
    head = load_model(find_model("open-head"))
    assert details["vertices"] == head.vertex_count and details["expressions"] == list(head.expression_names)
    assert details["landmarks"] == {"ibug68": 68, "mediapipe478": 478, "now7": 7}
    assert details["quads"] == int((head.faces[:, 3] >= 0).sum())
    assert details["regions"]["nose"] == int(head.regions["nose"].sum())


def test_details_before_the_installation(home: Path) -> None:
    """The licence can be read before anybody decides to install."""
    details = model_details("flame")
    assert not details["installed"] and not details["commercial"] and "non-commercial" in details["terms"]
    assert details["install"] == "mgcface models install flame --from FILE" and details["download_mb"] == 0
    assert model_details("ict-facekit")["download_mb"] > 300
    assert json.loads(json.dumps(details)) == details


def test_ctrl_c_stops_the_download(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"{number}.obj": bytes(1000) for number in range(200)}
    server.files = dict(contents)

    def interrupted(_future: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.exception", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_all(address(server), [remote(path, content) for path, content in contents.items()], tmp_path)
    assert len(list(tmp_path.iterdir())) < 200


def test_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MGCFACE_HOME", raising=False)
    folder = registry.models_folder()
    assert folder.is_absolute() and folder.name == "models" and "mgcface" in folder.parts


def test_open_head_itself_is_there() -> None:
    entry = list_models()[0]
    assert entry.name == "open-head" and entry.path is not None and not entry.problem and entry.commercial
