"""The command that a finding names shows its cells in the masks that were kept."""

import shlex

import pytest

from maskcli.diagnostics.behaviour import Behaviour
from maskcli.diagnostics.probed import findings_of
from tests.cli.running import run
from tests.probing.probed import report
from tests.probing.sick import BUGS

# What the difference is called there.
SHOWN = {
    "never causal, llama": "future keys",
    "window of one more": "see 1 earlier key that B ignores",
    "documents leak": "queries 7..24 see 7 to 16 earlier keys",
    "empty slots": "query 0 see 8 future keys",
}


@pytest.mark.long
@pytest.mark.parametrize("name", SHOWN)
def test_the_command_of_a_finding_shows_its_cells(name, tmp_path):
    bug = BUGS[name]
    kept = report(bug.sick(), **bug.options).kept_in(str(tmp_path / "measured.safetensors"))
    (finding,) = (each for each in kept.findings if each.code == bug.code)
    command = shlex.split(finding.see)
    assert command[0] == "maskcli"
    assert SHOWN[name] in " ".join(run(*command[1:], check=1).stdout.split())


def test_what_a_server_does_not_tell_is_asked_of_its_model():
    behaviour = Behaviour("tiny", calls=0, mixing=(), seen=(), unmeasured=("packed rows",))
    (finding,) = findings_of(behaviour, "http://localhost:8000/v1")
    assert (finding.code, finding.fix) == ("MSK613", "probe the model that is served")
