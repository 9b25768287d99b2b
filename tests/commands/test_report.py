"""``mgcface report``: pages from real reconstructions, and everything that can be wrong with a folder."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import bad_photos as photos
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from backend import cli
from backend.commands.console import Interrupted
from backend.export import report
from backend.export.folder import write_whole
from backend.export.report_pictures import DETECTED, FRAME, ON_HEAD, TURNTABLE_YAWS

# Elements that HTML closes by themselves.
VOID = {"meta", "img", "input", "br", "link"}
PANEL = (480, 640)


def reconstructed(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.app(["reconstruct", *map(str, arguments), "--quiet"], prog_name="mgcface")
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """``one/astronaut`` from the example photo; ``several`` from that, a darker tilted copy and a photo of nothing."""
    place = tmp_path_factory.mktemp("made")
    shutil.copy(photos.EXAMPLE, place / "astronaut.jpg")
    picture = Image.open(photos.EXAMPLE).convert("RGB")
    ImageEnhance.Brightness(picture.rotate(8.0, Image.Resampling.BICUBIC)).enhance(0.8).save(place / "tilted.png")
    photos.no_face(place / "a <b> & c.png")
    assert reconstructed(place / "astronaut.jpg", "--out", place / "one") == 0
    three = [place / name for name in ("astronaut.jpg", "tilted.png", "a <b> & c.png")]
    assert reconstructed(*three, "--same-person", "--out", place / "several") == 3
    return place


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of the one head, to be spoilt."""
    return Path(shutil.copytree(made / "one" / "astronaut", tmp_path / "copy"))


class Page(HTMLParser):
    """A page taken apart: ``pictures`` by their alternative text, ``text`` without tags, ``addresses`` fetched."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.pictures: dict[str, list[np.ndarray]] = {}
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.code = ""
        self.open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.addresses += [values[name] for name in ("src", "srcset", "action", "data") if name in values]
        self.addresses += [values["href"]] if "href" in values else []
        if tag == "img":
            kind, data = re.fullmatch(r"data:image/(jpeg|png);base64,(.+)", values["src"], re.DOTALL).groups()  # type: ignore[union-attr]
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert picture.format == kind.upper()
            self.pictures.setdefault(values["alt"], []).append(np.array(picture.convert("RGB")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.code += data
        else:
            self.words.append(data)


def has_color(picture: np.ndarray, color: tuple[int, int, int], tolerance: int = 40) -> int:
    """Pixels of about a colour; JPEG leaves none exact."""
    return int((np.abs(picture.astype(int) - color).max(axis=2) <= tolerance).sum())


# -- what a page shows -----------------------------------------------------------------------------


def test_one_photo_becomes_one_file_that_fetches_nothing(mgcface, folder, capfd):
    assert mgcface("report", folder) == 0
    assert capfd.readouterr() == (f"{folder / 'report.html'}\n", "")
    page = Page(folder / "report.html")
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", page.code)
    fields = json.loads((folder / "reconstruction.json").read_text("utf-8"))
    assert f"{fields['fit']['rms_px']:.2f} px" in page.text
    assert f"{fields['camera']['K'][0][0]:.0f} px" in page.text
    name, strongest = max(fields["expression"].items(), key=lambda item: item[1])
    assert f"{name} {strongest:.2f}" in page.text
    assert "1 of 1 photo used" in page.text and "open-head" in page.text and "yaw +1°" in page.text


def test_the_pictures_are_those_of_the_head(mgcface, folder):
    assert mgcface("report", folder, "--quiet") == 0
    pictures = Page(folder / "report.html").pictures
    sides = [pictures[f"The head turned by {yaw} degrees"][0] for yaw in TURNTABLE_YAWS]
    assert len({side.tobytes() for side in sides}) == len(TURNTABLE_YAWS)
    # A head fills each view, skin and not clay.
    for side in sides:
        skin = (side[..., 0].astype(int) - side[..., 2]) > 20
        assert 0.2 < skin.mean() < 0.8
    (crop,), (head,) = pictures["The face in the photo"], pictures["The head in the photo's place"]
    (clay,), (points,) = pictures["The bare head over the photo"], pictures["Landmarks"]
    assert {picture.shape[1::-1] for picture in (crop, head, clay, points)} == {PANEL}
    middle = (slice(240, 440), slice(160, 320))
    border = (slice(0, 40), slice(0, 40))
    for drawn in (head, clay):
        assert np.abs(drawn[middle].astype(int) - crop[middle]).mean() > 8.0
        assert np.abs(drawn[border].astype(int) - crop[border]).mean() < 3.0
    # The head's face lies on the photo's: the same picture but for light and detail.
    grey = [picture[middle].mean(axis=2).ravel() for picture in (crop, head)]
    assert np.corrcoef(*grey)[0, 1] > 0.7
    assert has_color(points, DETECTED) > 300 and has_color(crop, DETECTED) == 0
    assert has_color(points, ON_HEAD) > has_color(crop, ON_HEAD)
    (whole,) = pictures["The photo"]
    assert whole.shape == (512, 512, 3) and has_color(whole, FRAME) > 100
    (texture,), (confidence,) = pictures["Texture"], pictures["Confidence map"]
    assert texture.shape == confidence.shape == (768, 768, 3)


def test_several_photos_and_the_one_left_out(mgcface, made, tmp_path, capfd):
    out = tmp_path / "new" / "page.html"
    assert mgcface("report", made / "several", "--out", out) == 0
    assert capfd.readouterr().out == f"{out}\n"
    page = Page(out)
    assert "2 of 3 photos used" in page.text
    assert "a <b> & c.png" in page.text and "<b>" not in page.source.split("a &lt;b&gt; &amp; c.png")[1][:40]
    fields = json.loads((made / "several" / "reconstruction.json").read_text("utf-8"))
    (reason,) = [photo["reason"] for photo in fields["photos"] if not photo["used"]]
    assert page.text.count(reason) >= 2
    assert len(page.pictures["The head in the photo's place"]) == 2
    assert page.text.count("main photo") >= 2 and "in the photo's own light" in page.text
    (shares,) = re.findall(r"photo 1, (\d+) % photo 2, (\d+) % photo 3, 0 %", page.text)
    assert 20 <= sum(map(int, shares)) <= 100
    # Each photo's head is lit as the photo: the darker photo has the darker head.
    first, second = page.pictures["The head in the photo's place"]
    assert second[240:400, 160:320].mean() < first[240:400, 160:320].mean() - 10.0


def test_many_heads_in_one_file_or_one_in_each_folder(mgcface, made, folder, tmp_path, capfd):
    heads = Path(shutil.copytree(made / "one", tmp_path / "heads"))
    out = tmp_path / "all.html"
    assert mgcface("report", heads, made / "several", heads / "astronaut", "--out", out) == 0
    page = Page(out)
    assert "2 heads" in page.text and page.source.count('<section id="person') == 2
    capfd.readouterr()
    assert mgcface("report", heads, folder) == 0
    assert capfd.readouterr().out.split() == [str(heads / "astronaut" / "report.html"), str(folder / "report.html")]


def test_a_head_without_texture_is_shown_as_clay(mgcface, folder):
    for name in ("texture.png", "confidence.png", "eyes.png"):
        (folder / name).unlink()
    assert mgcface("report", folder) == 0
    page = Page(folder / "report.html")
    assert "shown as clay" in page.text and "Texture" not in page.pictures


def test_a_page_goes_with_the_folder_that_is_made_anew(folder, mgcface):
    assert mgcface("report", folder, "--quiet") == 0
    write_whole(folder, [("reconstruction.json", b"{}")])
    assert [path.name for path in folder.iterdir()] == ["reconstruction.json"]


# -- photos that cannot be shown -------------------------------------------------------------------


def change(folder: Path, **values: object) -> None:
    fields = json.loads((folder / "reconstruction.json").read_text("utf-8"))
    fields.update(values)
    (folder / "reconstruction.json").write_text(json.dumps(fields), "utf-8")


@pytest.mark.parametrize(
    ("path", "words"),
    [("gone/nowhere.jpg", "does not exist"), (None, "was no file"), ("../odd/astronaut.jpg", "pixels now and was")],
)
def test_a_missing_photo_is_said_on_the_page(mgcface, folder, path, words, monkeypatch):
    monkeypatch.chdir(folder)
    odd = folder.parent / "odd"
    odd.mkdir()
    Image.open(photos.EXAMPLE).resize((300, 300)).save(odd / "astronaut.jpg")
    change(folder, photo={"path": path, "width": 512, "height": 512})
    assert mgcface("report", folder, "--quiet") == 0
    page = Page(folder / "report.html")
    assert words in page.text and "The photo" not in page.pictures
    assert "px, " in page.text and len(page.pictures["The head turned by 0 degrees"]) == 1


def test_a_photo_that_moved_along_with_the_folder_is_found(mgcface, folder):
    change(folder, photo={"path": "somewhere/else/astronaut.jpg", "width": 512, "height": 512})
    shutil.copy(photos.EXAMPLE, folder.parent / "astronaut.jpg")
    assert mgcface("report", folder, "--quiet") == 0
    assert "The photo" in Page(folder / "report.html").pictures


def test_a_damaged_texture_is_a_remark(mgcface, folder):
    (folder / "texture.png").write_bytes(b"no picture")
    assert mgcface("report", folder, "--quiet") == 0
    assert "texture.png cannot be read" in Page(folder / "report.html").text


# -- folders that cannot be used -------------------------------------------------------------------


def test_a_folder_without_a_record(mgcface, tmp_path, capfd):
    assert mgcface("report", tmp_path) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "holds no reconstruction.json" in line and str(tmp_path) in line
    assert mgcface("report", tmp_path / "nowhere") == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"face_model": "no-such-head"}, "no-such-head"),
        ({"photos": [{"used": True}]}, "is damaged"),
        ({"landmarks_2d_ibug68": [["x"]]}, "is damaged"),
        ({"expression": {"smile": 1.0}}, "shapes differ"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_sentence(mgcface, folder, values, words, capfd):
    change(folder, **values)
    assert mgcface("report", folder) == 1
    said = capfd.readouterr()
    (line,) = said.err.splitlines()
    assert words in line and said.out == "" and not (folder / "report.html").exists()


def test_one_bad_folder_does_not_stop_the_others(mgcface, folder, tmp_path, capfd):
    out = tmp_path / "page.html"
    assert mgcface("report", tmp_path / "nowhere", folder, "--out", out) == 3
    said = capfd.readouterr()
    assert len(said.err.splitlines()) == 1 and said.out == f"{out}\n"
    assert "1 of 1 photo used" in Page(out).text


@pytest.mark.parametrize("place", ["", "file/page.html"])
def test_a_place_that_cannot_be_written(mgcface, folder, tmp_path, place, capfd):
    (tmp_path / "file").write_text("in the way")
    assert mgcface("report", folder, "--out", tmp_path / place) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "--out" in line


def test_ctrl_c_leaves_no_page(folder):
    def stop(part: float, doing: str) -> None:
        if part > 0.4:
            raise Interrupted

    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(Interrupted):
        report.person_section(folder, progress=stop)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    place = tmp_path / "page.html"
    place.write_text("an earlier page")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "replace", full)
    with pytest.raises(report.OutputError, match="disk is full"):
        report.write_page(place, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"] and place.read_text() == "an earlier page"
