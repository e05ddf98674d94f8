"""Files to named lazy arrays, the role each plays, and arrays to files."""

from maskcli.tensors.addresses import Address, is_remote, shown
from maskcli.tensors.atomic import replacing
from maskcli.tensors.compare import Difference, difference
from maskcli.tensors.formats import readable, suffix_of, writable
from maskcli.tensors.memory import from_array, from_arrays
from maskcli.tensors.open import open_items, open_tensors
from maskcli.tensors.paths import files_of, is_folder, is_pattern
from maskcli.tensors.remote import Remote
from maskcli.tensors.roles import (
    ROLES,
    Kind,
    Roled,
    group_by_name,
    layer_by_name,
    parse_role,
    role_by_name,
    role_of,
)
from maskcli.tensors.sources import Source, source_from, source_of
from maskcli.tensors.stacks import arranged, named_tensor, roles_of
from maskcli.tensors.storage import Computed, on_a_page
from maskcli.tensors.tensor import Tensor, TensorFile, find_tensor, split_target
from maskcli.tensors.views import View, Zoom, parse_range, place, view
from maskcli.tensors.write import holds_one, write_tensors
from maskcli.tensors.written import TOLD, is_written_mask, role_in, told_of_mask

__all__ = [
    "TOLD",
    "Address",
    "Computed",
    "Difference",
    "Kind",
    "Remote",
    "Roled",
    "Source",
    "Tensor",
    "TensorFile",
    "View",
    "Zoom",
]
__all__ += [
    "arranged",
    "files_of",
    "find_tensor",
    "is_folder",
    "is_pattern",
    "is_remote",
    "named_tensor",
    "open_items",
    "open_tensors",
    "readable",
    "split_target",
    "suffix_of",
]
__all__ += ["from_array", "from_arrays", "on_a_page"]
__all__ += ["ROLES", "group_by_name", "layer_by_name", "parse_role", "role_by_name", "role_of", "roles_of"]
__all__ += ["holds_one", "is_written_mask", "role_in", "shown", "told_of_mask"]
__all__ += ["difference", "parse_range", "place", "view"]
__all__ += ["replacing", "source_from", "source_of", "writable", "write_tensors"]
