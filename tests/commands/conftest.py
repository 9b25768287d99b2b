"""A way to call ``mgcface`` in this process, and a pipeline that stays warm between tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend import cli
from backend.commands import reconstruct
from backend.reconstruction.pipeline import Pipeline


@pytest.fixture
def mgcface() -> Callable[..., int]:
    """``mgcface("reconstruct", photo, ...)`` -> exit code, through the real command line."""

    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.app([str(argument) for argument in arguments], prog_name="mgcface")
        return int(ended.value.code or 0)

    return call


@pytest.fixture(scope="session")
def warm_pipeline() -> Pipeline:
    return Pipeline(texture_size=None)


@pytest.fixture
def warm(warm_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The command uses one pipeline for all tests instead of loading its own."""
    monkeypatch.setattr(reconstruct, "load_pipeline", lambda request: warm_pipeline)
    return warm_pipeline
