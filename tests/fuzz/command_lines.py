"""Command lines: every option of every command, with values that fit, that nearly fit, and that nobody expects."""

import enum
import functools
import itertools
import json

from tests.fuzz.mutate import damaged, damaged_json, json_bytes
from tests.fuzz.process import faults, run
from tests.fuzz.seeds import SETS, TENSORS, TEXTS
from tests.fuzz.specs import spec

COMMANDS = (
    "show",
    "diagnose",
    "inspect",
    "diff",
    "convert",
    "audit",
    "rule",
    "docs",
    "show",
    "diagnose",
    "inspect",
)
# They start processes or clusters, or wait for the network.
LEFT_OUT = {"--jobs", "--dask", "--help", "--install-completion", "--show-completion"}
SUFFIXES = (
    ".png",
    ".svg",
    ".html",
    ".json",
    ".csv",
    ".txt",
    ".safetensors",
    ".npy",
    ".npz",
    ".md",
    ".xml",
    ".sarif",
    ".xyz",
    "",
)


def cli(source, folder):
    """No command line does what none may do."""
    name = source.choice(COMMANDS)
    words = [name, *_arguments(source, name, folder)]
    # Few options at once, or nearly all lines would be refused.
    for option in source.some(_options(name), source.choice([0, 1, 1, 2, 4])):
        words += _written(source, option, folder)
    if name == "diagnose":
        # Folders would be spread over processes, whose start takes longer than anything else here.
        words += ["--jobs", "1"]
    if source.once_in(20):
        words[source.below(len(words))] = source.text()
    stdin = source.choice([b"", b"the cat\nsat\n", b"\xff\xfe", source.text().encode()])
    words = [word.replace("\0", "") for word in words]
    # Who is asked to look through the whole machine does, for as long as that takes.
    words = [str(folder) if set(word) == {"/"} else word for word in words]
    return [f"{fault}: {words}" for fault in faults(run(words, stdin))]


@functools.cache
def _options(name):
    import importlib

    import typer.main

    from maskcli.cli import app

    importlib.import_module(f"maskcli.cli.{name}")
    parameters = typer.main.get_command(app).commands[name].params
    return [each for each in parameters if each.param_type_name == "option" and not LEFT_OUT & set(each.opts)]


def _written(source, option, folder):
    """An option as it is typed."""
    word = source.choice([*option.opts, *option.secondary_opts])
    if getattr(option, "is_flag", False):
        return [word]
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and source.below(8):
        return [word, source.choice(list(kind)).value]
    metavar = option.metavar or ("N" if kind in (int, list[int]) else "TEXT")
    return [word, _value(source, option.opts[-1], metavar, folder)]


def _value(source, option, metavar, folder):
    if source.once_in(12):
        return source.text()
    if option in ("--output", "-o"):
        return (
            str(folder / f"out{source.choice(SUFFIXES)}")
            if source.below(6)
            else source.choice(["-", "/dev/full", "none/x.png", "."])
        )
    if option in ("--tokenizer", "-t"):
        return source.choice([str(TEXTS), "builtin", _file(source, folder, TEXTS)])
    makers = {
        "SPEC": lambda: spec(source),
        "N": lambda: str(source.number()),
        "N,N": lambda: ",".join(str(source.number()) for _ in range(source.between(1, 3))),
        "A:B": lambda: f"{source.number()}:{source.number()}",
        "IDS": lambda: source.choice(["5 3 2 0 0; 7 4 8 6 0", "1 2", f"{source.number()} {source.number()}; 5", ";;", "[[1,2],[3]]"]),
        "TEXT": source.text,
        "TOKEN": lambda: source.choice(["<pad>", "eos", source.text()]),
        "CONVENTION": lambda: source.choice(["sdpa", "mha", "megatron", "hf", "additive", "binary", "flex", "x"]),
        "TARGET": lambda: source.choice(["sdpa", "mha", "hf", "additive", "flash-attn", "flex", "xformers", "jax"]),
        "DTYPE": lambda: source.choice(["float16", "bfloat16", "float32", "bool", "int8", "x"]),
        "FILL": lambda: source.choice(["-inf", "-1e9", "min", "0", "nan", "1e400", source.text()]),
        "RULES": lambda: source.choice(["MSK202", "MSK1", "padding", "MSK999", source.text()]),
        "DIR": lambda: _model(source, folder),
        "ID": lambda: str(source.number()),
        "MB": lambda: source.choice(["1", "25", str(source.number())]),
        "N|all": lambda: source.choice(["0", "all", str(source.number())]),
        "POSITIONS": lambda: source.choice(["0,1,2", "3 1 2 0", source.text()]),
        "QUERY,KEY": lambda: f"{source.number()},{source.between(0, 5)}",
        "ROLE=MARKER": lambda: source.choice(["user=<|user|>", "end=</s>", source.text()]),
        "ROLE=NAME": lambda: source.choice(["input_ids=ids", "labels=y", "input_ids=input_ids", source.text()]),
        "RULE": lambda: source.choice(["MSK401", "MSK503", source.text()]),
        "TYPE": lambda: source.choice(["float16", "bfloat16", "float32", "x"]),
        "X": lambda: source.choice(["0.1", "1e-6", "0", "nan", source.text()]),
        "[FILE:]ROW": lambda: str(source.number()),
    }  # fmt: skip
    if metavar in makers:
        return makers[metavar]()
    if "FILE" in metavar:
        return _file(source, folder)
    if metavar.startswith("<"):
        return source.choice(metavar.strip("<>").split("|"))
    return source.choice(["0", "x", "input_ids=batch", str(source.number()), source.text()])


def _arguments(source, name, folder):
    """What a command is about."""
    if name == "show":
        ways = [
            lambda: [source.text() or "a"],
            lambda: ["--lengths", f"{source.number()},{source.between(1, 6)}"],
            lambda: ["--ids", "5 3 2 0 0; 7 4 8 6 0"],
            lambda: ["--file", _file(source, folder, TEXTS)],
            lambda: ["-"],
        ]
        return source.choice(ways)()
    if name in ("diagnose", "inspect", "audit"):
        homes = [SETS] if name == "audit" else [TENSORS]
        return [_file(source, folder, *homes) for _ in range(source.between(1, 2))]
    if name == "diff":
        sides = [lambda: spec(source), lambda: _file(source, folder, TENSORS)]
        lengths = ["--lengths", "6,4"] if source.below(2) else []
        return [*(source.choice(sides)() for _ in range(2)), *lengths]
    if name == "convert":
        target = ["--to", source.choice(["additive", "mha", "sdpa", "flash-attn"])] if source.below(8) else []
        lengths = ["--lengths", "6,4"]
        return [*source.choice([[spec(source), *lengths], [_file(source, folder, TENSORS)]]), *target]
    known = {"rule": ["MSK202", "MSK4", "--all"], "docs": ["masks", "json", "security"]}[name]
    return [source.choice(known) if source.below(8) else source.text()]


def _file(source, folder, *homes):
    """A file of the corpus, whole or damaged, at times under a hostile name; or what is none."""
    path = source.choice(_corpus(homes or (TENSORS, SETS, TEXTS)))
    way = source.below(16)
    if way == 0:
        return source.choice(
            ["none.npy", "/dev/zero", "/dev/null", str(TENSORS), "/proc/self/environ", "", source.text()]
        )
    if way > 4:
        if homes == (SETS,) or source.below(4):
            return str(path)
        return f"{path}{source.choice([':causal_mask', ':attentions.0', f':{source.text()}', '/0'])}"
    name = f"{_number()}{source.text()[:40] if source.once_in(3) else ''}{path.suffix}".replace(
        "/", "_"
    ).replace("\0", "")
    copy = folder / name
    copy.write_bytes(changed(source, path))
    return str(copy)


def changed(source, path):
    """The bytes of a file, damaged as bytes or, where it is JSON, in one of its values."""
    block = path.read_bytes()
    if path.suffix == ".json" and source.below(4):
        return json_bytes(damaged_json(source, json.loads(block)))
    if path.suffix == ".jsonl" and source.below(4):
        lines = block.splitlines()
        lines[source.below(len(lines))] = json_bytes(damaged_json(source, json.loads(lines[0])))
        return b"\n".join(lines)
    return damaged(source, block)


def _model(source, folder):
    """A folder with a config.json."""
    model = folder / f"model{_number()}"
    model.mkdir()
    (model / "config.json").write_bytes(changed(source, source.choice(_corpus((TEXTS,), "config."))))
    return str(model)


@functools.cache
def _corpus(homes, begin=""):
    return [path for home in homes for path in sorted(home.iterdir()) if path.name.startswith(begin)]


_numbers = itertools.count()


def _number():
    return next(_numbers)
