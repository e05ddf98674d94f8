"""Options of the suite, and what its processes inherit."""

import os
import signal

import hypothesis

from tests.diagnostics.thirds import THIRDS, third

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("maskcli", deadline=None)
hypothesis.settings.load_profile("maskcli")

# readline, which pytest imports, puts the size of its terminal into the environment that workers and children inherit.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)
# A suite that is started in the background ignores Ctrl-C, and so would what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--zoo", choices=[*THIRDS, "all"], default="1",
        help="Which third of the zoo's architectures is run, or all of them.",
    )  # fmt: skip


def _in_thirds(item):
    """Whether a test is of an architecture of the zoo, or of a healthy model that is probed."""
    probed = item.path.name == "test_sick.py" and item.path.parent.name == "probing"
    return item.path.name == "test_zoo.py" or (probed and "healthy" in item.originalname)


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of architectures of the other thirds."""
    wanted = config.getoption("--zoo")
    if wanted == "all":
        return

    def left_out(item):
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        return name is not None and _in_thirds(item) and third(name) != wanted

    deselected = [item for item in items if left_out(item)]
    items[:] = [item for item in items if not left_out(item)]
    config.hook.pytest_deselected(items=deselected)
