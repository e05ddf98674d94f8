"""What all tests of diagnostics share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tensors are tiny here: threads that wait for one another cost more than they bring."""
    torch.set_num_threads(1)
