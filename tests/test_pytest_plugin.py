"""The plugin of pytest, run by pytest as projects run it: found by its entry point, in a folder of its own."""

import json
import re

import numpy as np
import pytest

# pytester forgets what is imported inside of it: what other tests hold classes of is imported before.
import rich.console
import rich.table  # noqa: F401
from hypothesis import given, settings

import maskcli
from maskcli.masks.mask import Mask
from maskcli.report import golden
from tests.cli.running import ROOT, run
from tests.masks.strategies import dense_masks
from tests.test_house import modules_of

pytest_plugins = ["pytester"]

TEST = """
import numpy as np

def test_mask(maskcli_golden):
    maskcli_golden(np.tril(np.ones((6, 6), bool), {diagonal}), "causal")
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A folder with tests, and the entry points that an installation has."""
    (entry,) = re.findall(
        r'\[project.entry-points.pytest11\]\n(\w+ = )"(.*)"\n', (ROOT / "pyproject.toml").read_text()
    )
    information = pytester.mkdir("site") / "maskcli-0.dist-info"
    information.mkdir()
    (information / "entry_points.txt").write_text(f"[pytest11]\n{''.join(entry)}\n")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: maskcli\nVersion: 0\n")
    monkeypatch.syspath_prepend(information.parent)
    monkeypatch.setenv("PYTHONPATH", f"{information.parent}:{ROOT}")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def write(project, diagonal=0):
    project.makepyfile(test_masks=TEST.format(diagonal=diagonal))
    return project.path / "golden" / "causal.json"


def outcome(project, *arguments):
    return project.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def test_a_golden_mask_is_written_held_and_written_anew(project):
    path = write(project)
    missing = outcome(project)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        ["*there is no golden mask *golden/causal.json; this one is causal *", "*pytest --maskcli-update"]
    )
    assert not path.exists()

    outcome(project, "--maskcli-update").assert_outcomes(passed=1)
    kept = path.read_text()
    assert json.loads(kept)["mask"]["spec"] == "causal"
    outcome(project).assert_outcomes(passed=1)

    write(project, diagonal=1)
    failed = outcome(project)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(
        [
            "*the mask is not the golden one in *golden/causal.json",
            "*A: causal.json: causal",
            "*B: this one: *",
            "*5 of 36 cells * differ*",
            "*B lets queries 0..5 see 1 future key*",
            "*0 ■B····",
            "*if this is meant: pytest --maskcli-update",
        ]
    )
    failed.stdout.no_fnmatch_line("*pytest_plugin.py*")
    assert path.read_text() == kept

    outcome(project, "--maskcli-update").assert_outcomes(passed=1)
    assert path.read_text() != kept
    outcome(project).assert_outcomes(passed=1)


def test_what_is_equal_is_not_written_again(project):
    path = write(project)
    path.parent.mkdir()
    done = run("show", "--lengths", "6", "-m", "causal", "-o", path, check=0)
    assert done.stdout == ""
    before = path.read_bytes()
    outcome(project, "--maskcli-update").assert_outcomes(passed=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mask": {"shape": [1, 1, 1], "runs": []}}'])
def test_a_file_that_holds_no_mask_is_one_sentence(project, text):
    path = write(project)
    path.parent.mkdir()
    path.write_text(text)
    done = outcome(project)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*MaskcliError: *causal.json' holds no mask (*); write it anew with *"])


@pytest.mark.long
def test_processes_share_the_files(project):
    numbers = "[" + ", ".join(map(str, range(8))) + "]"
    project.makepyfile(
        test_masks=f"""
import numpy as np
import pytest

@pytest.mark.parametrize("number", {numbers})
def test_mask(maskcli_golden, number):
    maskcli_golden(np.tril(np.ones((6, 6), bool)), f"causal{{number % 2}}")
"""
    )
    shared = project.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider", "--maskcli-update")
    shared.assert_outcomes(passed=8)
    outcome(project).assert_outcomes(passed=8)
    assert sorted(path.name for path in (project.path / "golden").iterdir()) == [
        "causal0.json",
        "causal1.json",
    ]


@settings(max_examples=30)
@given(dense_masks())
def test_what_is_kept_is_the_mask(tmp_path_factory, made):
    shape, (array,) = made
    mask = Mask.from_dense(np.broadcast_to(array, shape)).compact()
    path = tmp_path_factory.getbasetemp() / "kept" / "mask.json"
    golden.keep(golden.seen(mask), path)
    assert golden.read(path).mask == mask
    assert golden.differing(golden.seen(mask), path) is None
    one = json.loads(path.read_text())["mask"]["runs"]
    cells = np.zeros(shape, bool)
    for (item, head, query), _ in np.ndenumerate(cells[..., 0]):
        for start, stop in one[item][min(head, len(one[item]) - 1)][query]:
            cells[item, head, query, start:stop] = True
    assert np.array_equal(cells, np.broadcast_to(array, shape))


def test_padding_is_called_so_and_masks_come_in_every_form(tmp_path):
    path = tmp_path / "mask.json"
    shown = maskcli.show("causal & padding", "one two three", "four")
    golden.keep(shown, path)
    keep = np.asarray(shown.mask)
    assert golden.differing(golden.seen(keep), path) is None
    assert golden.differing(golden.seen(~keep, "mha"), path) is None
    causal = maskcli.show("causal", "one two three", "four")
    assert "A ignores padding keys 1..3 of sample 1, B lets queries" in golden.differing(causal, path)
    other = golden.differing(golden.seen(keep[:1]), path)
    assert other == f"{path} keeps a mask [2, 1, 3, 3], and this one is [1, 1, 3, 3]"


@pytest.mark.parametrize(
    "runs",
    [
        [[[[0, 2], [1, 3]]]],
        [[[[0, 9]]]],
        [[[[-1, 2]]]],
        [[[[0, 1], [1, 2]]]],
        [[[["a", 2]]]],
        [[[[0.5, 2]]]],
        [[[[0]]]],
        [],
        [[]],
        [[[[], []]]],
        5,
    ],
)
def test_runs_that_are_none_are_refused(tmp_path, runs):
    (tmp_path / "mask.json").write_text(json.dumps({"mask": {"shape": [1, 1, 1, 4], "runs": runs}}))
    with pytest.raises(maskcli.MaskcliError, match=r"holds no mask \(.+\); write it anew"):
        golden.read(tmp_path / "mask.json")


def test_the_start_of_pytest_pays_for_nothing():
    loaded = modules_of(code="import maskcli.pytest_plugin", whole=True)
    assert {name for name in loaded if name.startswith("maskcli")} == {"maskcli", "maskcli.pytest_plugin"}
    assert "numpy" not in loaded
