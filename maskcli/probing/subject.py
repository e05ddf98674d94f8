"""What is probed: a model, the ids that it may be given, and what its configuration says."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.extras import require
from maskcli.inputs.user_code import in_words, load_function
from maskcli.meant.model_config import Config, config_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# Below, most vocabularies hold special tokens.
FIRST_PLAIN = 3
# Layers of a configuration, which may say any number, at most.
MOST_LAYERS = 1_000
# What versions of transformers call the argument that holds keys and values.
CACHE_NAMES = ("past_key_values", "cache", "cache_params")
# What configurations call the parts that mix positions and are no attention.
NO_ATTENTION = re.compile(r"conv|ssm|mamba|rwkv|recurrent|state_size|linear_attention", re.IGNORECASE)
# Causal as a whole, while their layers hold several streams of a text behind one another.
STACKED = frozenset({"prophetnet"})
# Types that models compute in.
DTYPES = ("float32", "float64", "float16", "bfloat16")
WEIGHTS = (".safetensors", ".safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Modules of torch that hold a model, and where.
WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


class Loading(NamedTuple):
    """How a model is loaded: its attention kernel, type, device, and whether its weights are random.

    Without a type and a device, what a user's function makes stays as and where it is; other models are
    float32 on the CPU. `evaluate` calls eval() on the former, which would hide that the function forgot to.
    """

    kernel: str | None = None
    dtype: str | None = None
    device: str | None = None
    random_weights: bool = False
    evaluate: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to probe.

    `name` is how the user calls it, `given` are arguments that the user gives it (None: they are made),
    `vocabulary` how many ids it takes; `said` is its configuration as it stands, and `config` what that
    says of masks.
    `real` bool [B, S] tells the tokens of given arguments from padding, where only the ids tell.
    `by_text` says that it answers each text as a whole, once that was seen,
    and `sequence_first` that what it is given is [S, B] or [S, B, D] (None: not looked at yet).
    """

    name: str
    model: Module
    given: Mapping[str, Any] | None
    vocabulary: int | None
    said: Mapping[str, Any]
    config: Config | None
    real: Array | None = None
    by_text: bool = False
    sequence_first: bool | None = None

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder and a decoder."""
        return self.said.get("is_encoder_decoder") is True

    @property
    def sees_all(self) -> bool:
        """Whether its configuration says that every token sees all others."""
        return self.config is not None and self.config.spec == "full"

    @property
    def is_causal(self) -> bool:
        """Whether its configuration says that no token may see what follows."""
        if self.said.get("model_type") in STACKED and not self.encodes:
            return True
        return self.config is not None and self.config.spec == "causal"

    @property
    def only_attends(self) -> bool:
        """Whether its configuration declares attention, and nothing else that mixes positions."""
        named = [*self.said, *map(str, self.said.get("layer_types") or ())]
        attends = any("head" in name for name in named)
        return attends and not any(map(NO_ATTENTION.search, named))

    @property
    def device(self) -> Any:
        """Where its weights are."""
        return next((each.device for each in self.model.parameters()), "cpu")

    def takes(self, name: str) -> bool:
        """Whether its forward names an argument so."""
        return name in inspect.signature(self.model.forward).parameters

    @property
    def cache_argument(self) -> str | None:
        """The name of the argument that takes a cache of transformers; None where there is none.

        Models of one's own call it as the library does, or not at all: a `cache` of theirs may be anything.
        """
        names = CACHE_NAMES if self.said else ("past_key_values",)
        return next((name for name in names if self.takes(name)), None)

    @property
    def first_argument(self) -> str:
        """The name of its first argument: the ids, unless the user says otherwise."""
        parameters = list(inspect.signature(self.model.forward).parameters)
        if not parameters:
            raise MaskcliError(f"{self.name!r}: its forward takes no argument, so nothing can be moved")
        return "input_ids" if self.takes("input_ids") else parameters[0]

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Run the model with arguments by name, but for those that only have a place."""
        parameters = inspect.signature(self.model.forward).parameters
        placed: list[str] = []
        for at, (name, parameter) in enumerate(parameters.items()):
            if name in arguments and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                placed = list(parameters)[: at + 1]
        named = {name: value for name, value in arguments.items() if name not in placed}
        return self.model(*(arguments[name] for name in placed), **named)

    def plain_ids(self) -> tuple[int, ...]:
        """Ids that are no special tokens, as far as the configuration tells."""
        special = {
            each
            for key, value in self.said.items()
            if key.endswith(("_token_id", "_token_index"))
            for each in (value if isinstance(value, list) else [value])
        }
        count = self.vocabulary or 0
        plain = tuple(each for each in range(min(FIRST_PLAIN, count // 2), count) if each not in special)
        if len(plain) < 2:
            raise MaskcliError(
                f"{self.name!r}: it is not known how many ids it takes; return (model, vocabulary size) or "
                "(model, arguments)"
            )
        return plain


def subject_of(model: Module, given: Any = None, name: str = "") -> Subject:
    """A model in memory: `given` are its arguments by name, its vocabulary size, or nothing."""
    from torch import nn

    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise MaskcliError(
            f"a model was expected, and this is of type {type(model).__name__}; pass a torch module, or run "
            "maskcli probe on a folder or on FILE.py:make_model"
        )
    if any(each.is_meta for each in model.parameters()):
        raise MaskcliError(
            f"{name!r} has weights on the device meta, where nothing is computed; move it to another, as by "
            'model.to_empty(device="cpu")'
        )
    said = _configuration(model)
    table = next((each for each in model.modules() if isinstance(each, nn.Embedding)), None)
    vocabulary = given if isinstance(given, int) else said.get("vocab_size")
    if not isinstance(vocabulary, int):
        vocabulary = table.num_embeddings if table is not None else None
    config = config_of(dict(said), {}, name, "its configuration") if said else None
    arguments = dict(given) if isinstance(given, Mapping) else None
    return Subject(name or type(model).__name__, model, arguments, vocabulary, said, config)


def unwrapped(model: Module) -> Module:
    """The model within what compiles it or spreads it over devices, which only passes arguments on."""
    while type(model).__name__ in WRAPPERS:
        model = getattr(model, WRAPPERS[type(model).__name__])
    return model


def _configuration(model: Module) -> dict[str, Any]:
    """The configuration of a model as a dictionary, that of its text model within it."""
    config: Any = getattr(model, "config", None)
    said = _said(config) if hasattr(config, "to_dict") else {}
    inner = _said(config.get_text_config()) if hasattr(config, "get_text_config") else {}
    names = said.get("architectures") or [type(model).__name__]
    return {**said, **inner, "architectures": names} if said else {}


def _said(config: Any) -> dict[str, Any]:
    """A configuration as it is written down, but for the layers: the model has those that it holds.

    (Dory writes attention and MLP as layers of their own.)
    """
    held = getattr(config, "layer_types", None)
    return {**config.to_dict(), **({"layer_types": held} if isinstance(held, list) else {})}


def load(target: str, how: Loading) -> Subject:
    """The model of a folder or a hub name with a config.json, or that which FILE.py:FUNCTION makes.

    MaskcliError says what could not be loaded, and what to pass instead.
    """
    if how.dtype is not None and how.dtype not in DTYPES:
        raise MaskcliError(f"dtype {how.dtype!r} is not one of {', '.join(DTYPES)}")
    require("torch", "probe")
    path, _, function = target.rpartition(":")
    if path.endswith(".py"):
        return _made(target, path, function, how)
    if target.endswith(".py"):
        raise MaskcliError(f"{target!r}: name the function that makes the model, {target}:make_model")
    require("transformers", repr(target))
    with _loading(target):
        model = _pretrained(target, how)
    return subject_of(_moved(model.eval(), how), name=target)


def _made(target: str, path: str, function: str, how: Loading) -> Subject:
    import torch

    make, _ = load_function(path, function)
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise MaskcliError(f"{target!r} fails: {in_words(error)}") from error
    model, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, torch.nn.Module) or not isinstance(given, (int, Mapping, type(None))):
        raise MaskcliError(
            f"{target!r} returns {type(made).__name__}; return a torch.nn.Module, (module, "
            "vocabulary size) or (module, dictionary of its arguments)"
        )
    if isinstance(given, Mapping):
        given = {name: _moved(value, how) for name, value in given.items()}
    return subject_of(_moved(model.eval() if how.evaluate else model, how), given, target)


def _moved(value: Any, how: Loading) -> Any:
    """A model, or a tensor among its arguments, of the type and on the device that are asked for, if any."""
    import torch

    is_model = isinstance(value, torch.nn.Module)
    if not is_model and not torch.is_tensor(value):
        return value
    floats = is_model or value.is_floating_point()
    dtype = getattr(torch, how.dtype) if how.dtype is not None and floats else None
    try:
        return value.to(device=how.device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        raise MaskcliError(
            f"device {how.device!r} cannot be used ({in_words(error)}); pass one that torch has here, as cpu"
        ) from error


@contextlib.contextmanager
def _loading(target: str) -> Iterator[None]:
    """What the library says of a model that it cannot load, in one sentence; and no bars of its own."""
    try:
        with _no_bars():
            yield
    except MaskcliError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise MaskcliError(
            f"{target!r} cannot be loaded: {in_words(error)}; pass a folder with a config.json, a "
            "hub name, or FILE.py:make_model"
        ) from error


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _pretrained(target: str, how: Loading) -> Any:
    import torch
    from transformers import AutoConfig

    # Without this, a folder with code of its own makes the library ask on the terminal whether to run it.
    config = AutoConfig.from_pretrained(target, trust_remote_code=False)
    kernel = {"attn_implementation": how.kernel} if how.kernel else {}
    family = _family(config)
    dtype = getattr(torch, how.dtype or "float32")
    if how.random_weights or not _has_weights(target):
        _check_size(target, config, family, dtype.itemsize)
        return family.from_config(config, dtype=dtype, trust_remote_code=False, **kernel)
    return family.from_pretrained(target, dtype=dtype, trust_remote_code=False, **kernel)


def _check_size(target: str, config: Any, family: Any, itemsize: int) -> None:
    """Refuse a configuration whose weights, made at random, do not fit into memory: nothing bounds its
    numbers.
    """
    import torch

    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise MaskcliError(f"{target!r} has {layers:,} layers; {MOST_LAYERS:,} are probed at most")
    with torch.device("meta"):
        shell = family.from_config(config)
    size = sum(each.numel() for each in shell.parameters()) * itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise MaskcliError(
            f"{target!r} would take {size / 2**30:,.0f} GiB of random weights, and there are "
            f"{memory / 2**30:,.0f} GiB of memory; lower num_hidden_layers in its config.json"
        )


def _has_weights(target: str) -> bool:
    """Whether a folder holds weights; those of a hub name are fetched."""
    return not os.path.isdir(target) or any(name.endswith(WEIGHTS) for name in os.listdir(target))


def _family(config: Any) -> Any:
    """The class family that a configuration is for: its own head where it names one, else what it can be."""
    import transformers

    named = [str(name) for name in getattr(config, "architectures", None) or ()]
    families = {
        "ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
        "ForCausalLM": transformers.AutoModelForCausalLM,
        "LMHeadModel": transformers.AutoModelForCausalLM,
        "ForMaskedLM": transformers.AutoModelForMaskedLM,
    }
    by_name = [family for end, family in families.items() for name in named if name.endswith(end)]
    usual = [transformers.AutoModelForSeq2SeqLM, transformers.AutoModelForCausalLM, transformers.AutoModel]
    for family in [*by_name, *(usual if not named else usual[2:])]:
        if type(config) in family._model_mapping:
            return family
    raise MaskcliError(f"no class of transformers is known for a {type(config).__name__}")


def random_ids(subject: Subject, shape: tuple[int, int], seed: int) -> Tensor:
    """Ids [B, S] that are no special tokens, the same for the same seed."""
    import torch

    plain = torch.tensor(subject.plain_ids())
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(plain), shape, generator=generator)
    return plain[chosen].to(subject.device)


def other_ids(subject: Subject, ids: Tensor, cells: Tensor) -> Tensor:
    """The ids with others, half a vocabulary away, where `cells` [B, S] says so."""
    import torch

    plain = torch.tensor(subject.plain_ids(), device=ids.device)
    rank = torch.searchsorted(plain, ids.contiguous().clamp(int(plain[0]), int(plain[-1])))
    moved = plain[(rank + len(plain) // 2) % len(plain)]
    return torch.where(cells, moved.to(ids.dtype), ids)
