import pytest
import torch

from backend.face_model.registry import get_model
from trainer.data.synthetic import Head
from trainer.train.start import chosen_albedo


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Networks and pictures here are so small that threads cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model():
    return get_model("open-head")


@pytest.fixture(scope="session")
def head(model) -> Head:
    return Head(model, torch.device("cpu"), chosen_albedo("open-head", model))
