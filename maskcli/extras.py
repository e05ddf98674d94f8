"""Packages that only some of maskcli needs, and what is said where one is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from maskcli.errors import MaskcliError

# Which extra brings a package.
EXTRAS = {
    "torch": "torch",
    "transformers": "transformers",
    "pyarrow": "tables",
    "fsspec": "remote",
    "distributed": "dask",
}


class MissingError(MaskcliError):
    """A package of an extra does not import."""


@contextmanager
def needing(package: str, what: str, instead: str = "") -> Iterator[None]:
    """Import a package of an extra inside: one sentence says what needs it where it does not import.

    >>> with needing("pyarrow", "'rows.parquet'"):
    ...     raise ImportError("no pyarrow here")
    Traceback (most recent call last):
    maskcli.extras.MissingError: 'rows.parquet' needs pyarrow (no pyarrow here); pip install "maskcli[tables]"
    """
    try:
        yield
    except ImportError as error:
        raise missing(package, what, str(error).partition("\n")[0], instead) from error


def require(package: str, what: str) -> None:
    """Refuse what will need a package that is not installed, without importing it."""
    if find_spec(package) is None:
        raise missing(package, what, "it is not installed")


def missing(package: str, what: str, why: str, instead: str = "") -> MissingError:
    """The sentence: what needs the package, why it is not to be had, and the line that installs it."""
    line = f'pip install "maskcli[{EXTRAS[package]}]"'
    return MissingError(f"{what} needs {package} ({why}); {line}{instead and f', or {instead}'}")
