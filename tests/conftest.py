"""Options of the suite, and what its processes inherit."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

from tests.shares import SHARES, share, share_in_turn

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("maskcli", deadline=None)
hypothesis.settings.load_profile("maskcli")

# readline, which pytest imports, puts the size of its terminal into the environment that workers and children inherit.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)
# Its many interpreters would each compile the package anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A suite that is started in the background ignores Ctrl-C, and so would what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--share", choices=[*SHARES, "all"], default="1",
        help="Which share is run of the zoo's architectures, of all combinations and of long tests, or all of them.",
    )  # fmt: skip


def _by_architecture(item):
    """Whether a test is of an architecture of the zoo, or of a healthy model that is probed."""
    probed = item.path.name == "test_sick.py" and item.path.parent.name == "probing"
    return item.path.name == "test_zoo.py" or (probed and "healthy" in item.originalname)


def pytest_collection_modifyitems(config, items):
    """Leave out what the other shares run."""
    wanted = config.getoption("--share")
    if wanted == "all":
        return
    ranks = Counter()

    def left_out(item):
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        if name is not None and _by_architecture(item):
            return share(name) != wanted
        if item.get_closest_marker("long") is not None:
            return share(item.nodeid) != wanted
        if item.get_closest_marker("combinations") is None:
            return False
        test = item.path, item.originalname
        ranks[test] += 1
        return share_in_turn(ranks[test] - 1) != wanted

    deselected = [item for item in items if left_out(item)]
    others = set(deselected)
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=deselected)


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    """The folder of a real tokenizer whose vocabulary is cut to an eighth."""
    from tests.text.conftest import deepseek, trimmed

    return trimmed(deepseek(Path()), tmp_path_factory.mktemp("trimmed") / "deepseek")


@pytest.fixture(scope="session")
def small_gpt2(tmp_path_factory):
    """The folder of GPT-2's tokenizer with the first third of its vocabulary."""
    from tests.text.conftest import gpt2, trimmed

    folder = tmp_path_factory.mktemp("gpt2")
    return trimmed(gpt2(folder / "whole"), folder / "trimmed")
