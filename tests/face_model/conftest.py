from __future__ import annotations

from pathlib import Path

import pytest
from small_head import build_head

from backend.face_model import registry
from backend.face_model.file_format import save_model
from backend.face_model.model import FaceModel

SHARED = Path(__file__).parents[2].parent / "shared"


@pytest.fixture
def head() -> FaceModel:
    return build_head()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: FaceModel) -> Path:
    """A data folder of the test's own, and a small head in the place of open-head."""
    monkeypatch.setenv("MGCFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "PACKAGED", tmp_path / "packaged")
    save_model(head, tmp_path / "packaged" / "open-head.safetensors")
    return tmp_path / "home"


@pytest.fixture
def ict_source() -> Path:
    folder = SHARED / "models" / "ict-facekit"
    if not folder.is_dir():
        pytest.skip("needs ../shared/models/ict-facekit, which is not part of the repository")
    return folder
