"""Files to named lazy arrays, the role each plays, and arrays to files."""

from maskcli.tensors.atomic import replacing
from maskcli.tensors.compare import Difference, difference
from maskcli.tensors.memory import from_array, from_arrays
from maskcli.tensors.open import READERS, open_tensors
from maskcli.tensors.roles import ROLES, Kind, Roled, parse_role, role_by_name, role_of, roles_of
from maskcli.tensors.storage import Computed, on_a_page
from maskcli.tensors.tensor import Tensor, TensorFile, find_tensor, split_target
from maskcli.tensors.views import View, Zoom, parse_range, place, view
from maskcli.tensors.write import WRITERS, Source, source_from, source_of, write_tensors

__all__ = [
    "READERS",
    "ROLES",
    "WRITERS",
    "Computed",
    "Difference",
    "Kind",
    "Roled",
    "Source",
    "Tensor",
    "TensorFile",
    "View",
    "Zoom",
    "difference",
    "find_tensor",
    "from_array",
    "from_arrays",
    "on_a_page",
    "open_tensors",
    "parse_range",
    "parse_role",
    "place",
    "replacing",
    "role_by_name",
    "role_of",
    "roles_of",
    "source_from",
    "source_of",
    "split_target",
    "view",
    "write_tensors",
]
