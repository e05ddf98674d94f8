"""matplotlib, imported so that pictures look alike wherever they are drawn."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec


def import_plainly() -> None:
    """Import matplotlib with its own settings, and with nothing to say.

    It would take those of a matplotlibrc in the current folder first, whosever that is, then those of the
    environment and of the user; one that it cannot read ends the import.
    """
    if "matplotlib" in sys.modules:
        return
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    with _beside_its_settings(), _without("MPLBACKEND"):
        import matplotlib as matplotlib


@contextlib.contextmanager
def _beside_its_settings() -> Iterator[None]:
    """Stand in the folder whose matplotlibrc are the library's own settings."""
    found = find_spec("matplotlib")
    places = (found.submodule_search_locations if found else None) or []
    settings = os.path.join(places[0], "mpl-data") if places else ""
    if not os.path.isdir(settings):
        yield
        return
    here = os.open(".", os.O_RDONLY) if os.name == "posix" else os.getcwd()
    os.chdir(settings)
    try:
        yield
    finally:
        os.chdir(here)
        if isinstance(here, int):
            os.close(here)


@contextlib.contextmanager
def _without(variable: str) -> Iterator[None]:
    """Without a variable of the environment."""
    before = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[variable] = before
