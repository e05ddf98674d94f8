"""Files of one run, as debugging tools leave them: a tensor or a pass in each, and the rest in its name."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.tensors import Roled, TensorFile, open_tensors, role_by_name, role_of, shown
from maskcli.tensors.storage import Refused
from maskcli.tensors.tensor import Tensor

# What a tool calls the one tensor of its files.
ALONE = ("value", "data", "high_precision", "quantized")
# Between tags; a name may hold as many underscores.
TAGS = r"___(?=[a-z]\w*?=)"
# Open files that every system allows, and some to spare.
DESCRIPTORS = 200
# Suffixes of files that hold one part of an attention each, where their names say which.
ONE_PART = (".npy", ".pt", ".pth")
# Roles that a folder of such files has to hold one of, beside another, to be one run.
PARTS = ("weights", "scores", "mask", "padding_mask")


class Member(NamedTuple):
    """A file of a run: its folder, the step (None: there are none), the name of its one tensor, the rank.

    Without a name, its tensors have their own, and so they have where a `part` turns out to hold several.
    """

    path: str
    folder: str
    step: int | None = None
    name: str | None = None
    rank: str = ""
    part: bool = False


class Run(NamedTuple):
    """Files that are checked together, by the name of their folder, and the rank where it has several."""

    name: str
    members: tuple[Member, ...]


def in_runs(paths: Iterable[str]) -> list[str | Run]:
    """Files in their order, those of one run together at the place of the first."""
    arrays = _arrays(paths := list(paths))
    found: dict[tuple[str, str] | str, list[Member]] = {}
    for path in paths:
        member = member_of(path) or arrays.get(path)
        key = path if member is None else (member.folder, member.rank)
        found.setdefault(key, []).extend([member] if member else [])

    ranks = Counter(key[0] for key in found if isinstance(key, tuple))
    return [
        key if isinstance(key, str) else Run(_called(*key, ranks[key[0]]), tuple(members))
        for key, members in found.items()
    ]


def _called(folder: str, rank: str, ranks: int) -> str:
    folder = shown(folder)
    return f"{folder or '.'} ({rank})" if ranks > 1 and rank else folder or "."


def member_of(path: str) -> Member | None:
    """A file of a tool that is known by its name; None for any other."""
    folder, base = os.path.split(path)
    stem, suffix = os.path.splitext(base)
    for read in (
        _of_sglang_dumper,
        _of_sglang_passes,
        _of_model_debugger,
        _of_transformer_engine,
        _of_tensorrt,
    ):
        member = read(path, folder, stem, suffix)
        if member is not None:
            return member
    return None


def open_run(run: Run) -> tuple[TensorFile, list[Roled]]:
    """The tensors of all files with their roles; of a file that cannot be read a tensor that says why."""
    _allow(len(run.members))
    steps = {member.step for member in run.members}
    roled: list[Roled] = []
    names: Counter[str] = Counter()
    for member in run.members:
        for each in _tensors(member):
            step = "" if len(steps) < 2 or member.step is None else f"step{member.step}."
            name = step + each.tensor.name
            names[name] += 1
            name += f" ({names[name]})" if names[name] > 1 else ""
            group = str(member.step) if step and not each.group else each.group
            roled.append(replace(each, tensor=replace(each.tensor, name=name), group=group))
    return TensorFile(run.name, tuple(each.tensor for each in roled)), roled


def _tensors(member: Member) -> Iterable[Roled]:
    """The tensors of a file, with the names and the roles that the name of the file tells."""
    try:
        file = open_tensors(member.path)
    except MaskcliError as error:
        lost = Tensor(os.path.basename(member.path), "none", (), Refused(str(error)))
        return [Roled(lost, None, "unreadable", "", "self", None, unfit=str(error), origin=member.path)]

    alone = len(file.tensors) == 1
    found = []
    for tensor in file.tensors:
        target = member.path if alone else f"{member.path}:{tensor.name}"
        name = _called_in(member, tensor.name, alone)
        if name is not None:
            known = role_of(replace(tensor, name=name))
            found.append(replace(known, tensor=replace(tensor, name=name), origin=target))
    return found


def _called_in(member: Member, inner: str, alone: bool) -> str | None:
    """What a tensor of a file is called, by the name of the file where that tells."""
    if member.name is None:
        return inner
    if member.part and (not alone or role_by_name(inner)[0] is not None):
        return _of_part(inner, member.name)
    return _renamed(inner, member.name, alone)


def _renamed(inner: str, name: str, alone: bool) -> str | None:
    """What a tensor of a file with a telling name is called; None for what stands beside it."""
    for word in ALONE:
        if inner == word or inner.startswith(f"{word}."):
            return name + inner[len(word) :]
    return name if alone else None


def _of_part(inner: str, name: str) -> str:
    """What a tensor with a name or number of its own is called in a file that is named as a part."""
    return f"{name}.{inner}" if inner.split(".")[0].isdigit() else inner


# The tools


def _of_sglang_dumper(path: str, folder: str, stem: str, suffix: str) -> Member | None:
    """`step=0___rank=0___dump_index=3___name=attn_weights___layer_id=3.pt`; forward_pass_id before 2026."""
    tags: dict[str, str] = dict(part.partition("=")[::2] for part in re.split(TAGS, stem))
    if suffix != ".pt" or "name" not in tags:
        return None
    rank = ", ".join(f"{key} {tags[key]}" for key in tags if key.endswith("rank"))
    step = tags.get("step", tags.get("forward_pass_id", ""))
    # A gradient is none of what it is the gradient of.
    name = tags["name"] if tags["name"].startswith("grad__") else tags["name"].replace("__", ".")
    if tags.get("layer_id", "").isdigit() and "layers." not in name:
        name = f"layers.{tags['layer_id']}.{name}"
    return Member(path, folder, int(step) if step.isdigit() else None, name, rank)


def _of_sglang_passes(path: str, folder: str, stem: str, suffix: str) -> Member | None:
    """`TP0_PP0_Rank0_pid123/Pass00001.pt`: what every module returned in one forward pass."""
    match = re.fullmatch(r"Pass(\d{5,9})", stem)
    return Member(path, folder, int(match[1])) if match and suffix == ".pt" else None


def _of_model_debugger(path: str, folder: str, stem: str, suffix: str) -> Member | None:
    """`LlamaModel.layers.0.self_attn_inputs_kwargs_attention_mask.safetensors`, by transformers."""
    match = re.fullmatch(r"([A-Z]\w*?)((?:\.\w+?)*)_(inputs|outputs)((?:_.+)?)", stem)
    tree = os.path.join(folder, f"{match[1]}_debug_tree_SUMMARY.json") if match else ""
    if match is None or suffix != ".safetensors" or not os.path.exists(tree):
        return None
    module, side, rest = match[2][1:], match[3], match[4][1:]
    what = rest.removeprefix("kwargs_") if side == "inputs" else rest
    what = re.sub(r"_(\d+)(?=_|$)", r".\1", what)
    name = ".".join(filter(None, [module, what])) or side
    return Member(path, folder, None, name)


def _of_transformer_engine(path: str, folder: str, stem: str, suffix: str) -> Member | None:
    """`tensor_dumps/rank_0/LAYER_TENSOR_iter_000001.pt`."""
    match = re.fullmatch(r"(.+)_iter_(\d{6,9})", stem)
    if match is None or suffix != ".pt" or not re.fullmatch(r"rank_\d+", os.path.basename(folder)):
        return None
    return Member(path, folder, int(match[2]), match[1])


def _of_tensorrt(path: str, folder: str, stem: str, suffix: str) -> Member | None:
    """`tllm_debug/PP_1/TP_1/iteration_3/attention_mask.npy`, by TensorRT-LLM."""
    above, iteration = os.path.split(folder)
    match = re.fullmatch(r"iteration_(\d{1,9})", iteration)
    if match is None or suffix != ".npy" or not re.fullmatch(r"TP_\d+", os.path.basename(above)):
        return None
    return Member(path, above, int(match[1]), stem)


TOOLS = (_of_sglang_dumper, _of_sglang_passes, _of_model_debugger, _of_transformer_engine, _of_tensorrt)


def _arrays(paths: list[str]) -> dict[str, Member]:
    """Files of one folder that are named as the parts of one attention, each once."""
    folders: dict[str, dict[str, tuple[str | None, str]]] = {}
    for path in paths:
        folder, base = os.path.split(path)
        stem, suffix = os.path.splitext(base)
        if suffix in ONE_PART and role_by_name(stem)[0] is not None:
            folders.setdefault(folder, {})[path] = (role_by_name(stem)[0], stem)
    found: dict[str, Member] = {}
    for folder, named in folders.items():
        roles = {role for role, _ in named.values()}
        if len(roles) > 1 and roles & set(PARTS):
            found |= {path: Member(path, folder, None, stem, part=True) for path, (_, stem) in named.items()}
    return found


def _allow(count: int) -> None:
    """Let this process hold so many files open, as far as the system lets it."""
    if count < DESCRIPTORS:
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + DESCRIPTORS
        if soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
