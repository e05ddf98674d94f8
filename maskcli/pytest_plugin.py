"""The plugin of pytest: `maskcli_golden` holds a mask to the one that a file keeps.

Nothing else of maskcli is imported until a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

FOLDER = "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--maskcli-update` keeps what tests have now."""
    group = parser.getgroup("maskcli", "attention masks")
    group.addoption(
        "--maskcli-update", action="store_true", help="Write golden masks anew, as the tests have them now."
    )


@pytest.fixture
def maskcli_golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`maskcli_golden(mask, "causal")`: the mask is the one in golden/causal.json beside the test.

    `mask` is an array or tensor, which is read in `convention` if that is said, a `maskcli.Mask`, or what
    `maskcli.show` returns. Where it differs, the test fails and says how, as `maskcli diff` does; it fails
    where nothing is kept yet, too. `pytest --maskcli-update` writes the file.
    """

    def check(mask: Any, name: str, *, convention: str | None = None) -> None:
        __tracebackhide__ = True
        from maskcli.report.golden import differing, keep, seen

        path = request.path.parent / FOLDER / f"{name}.json"
        shown = seen(mask, convention)
        fault = differing(shown, path)
        if fault is not None and request.config.getoption("--maskcli-update"):
            keep(shown, path)
        elif fault is not None:
            raise AssertionError(f"{fault}\nif this is meant: pytest --maskcli-update")

    return check
