"""Results that a notebook shows; how they look, the room of reports says."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# The one door that leads up the house: results know of no report before somebody looks at them.
LOOKS = "maskcli.report.notebook"


class Displayed:
    """A result that a notebook shows as HTML."""

    def _repr_html_(self) -> str:
        html: str = import_module(LOOKS).html(self)
        return html


class Pictured(Displayed):
    """A mask, which is a picture as well, and text where it is printed."""

    def __str__(self) -> str:
        text: str = import_module(LOOKS).text(self)
        return text

    def plot(self) -> Any:
        """A matplotlib Figure of the mask, which a notebook shows; `savefig` writes it."""
        return import_module(LOOKS).plot(self)
