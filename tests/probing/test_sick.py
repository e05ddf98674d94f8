"""Every bug is found by its name and place, and the same model without it is silent."""

import pytest
import torch

from maskcli.errors import MaskcliError
from tests.probing.probed import report, said
from tests.probing.sick import BUGS, HARMLESS, HEALTHY

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")],
    ),
]
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
RANDOM = {name: bug for name, bug in BUGS.items() if bug.code is None}
FOUND = {name: bug for name, bug in BUGS.items() if bug.code is not None}
# What a user can help by passing positions, or what only training could make a leak of, is told as a note.
NOTES = {"fill of -1e4", "positions count the padding"}

devices = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.combinations
@devices
@pytest.mark.parametrize("name", FOUND)
def test_a_bug_is_found_where_it_is(name, device):
    bug = FOUND[name]
    found = report(bug.sick(), device=device, **bug.options)
    notes = [(each.code, each.tensors) for each in found.findings]
    loud = said(found) if name not in NOTES else notes
    assert {code for code, _ in loud} == {bug.code}
    assert bug.place == "" or bug.place in {module for _, modules in loud for module in modules}


@pytest.mark.combinations
@devices
@pytest.mark.parametrize("name", BUGS)
def test_its_healthy_twin_is_silent(name, device):
    bug = BUGS[name]
    found = report(bug.healthy(), device=device, **bug.options)
    assert (said(found), found.behaviour.unmeasured) == ([], ())


@pytest.mark.combinations
@devices
@pytest.mark.parametrize("name", [*HEALTHY, *HARMLESS])
def test_a_healthy_model_is_silent(name, device):
    make, options = (HEALTHY | HARMLESS)[name]
    found = report(make(), device=device, **options)
    assert (said(found), found.behaviour.unmeasured) == ([], ())


@pytest.mark.parametrize("name", RANDOM)
def test_nothing_is_said_of_what_answers_differently_each_time(name):
    with pytest.raises(MaskcliError, match="differently the second time"):
        report(RANDOM[name].sick(), **RANDOM[name].options)
