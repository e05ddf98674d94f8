"""The house: imports run one way, heavy libraries stay out of commands that do not need them, everything is documented."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskcli.diagnostics.catalogue import PROBED, RULES, in_code_order
from tests.cli.running import DATA, ROOT, plain_environment, run

PACKAGE = ROOT / "maskcli"
# Rooms from the front door down; an arrow may skip rooms but never turn back.
ROOMS = [
    {"cli", "pytest_plugin"},
    {"report"},
    {"api"},
    {"tracing"},
    {"probing"},
    {"auditing"},
    {"inputs"},
    {"diagnostics"},
    {"scene"},
    {"measure", "meant"},
    {"tables"},
    {"masks", "tensors", "text"},
    {"untrusted", "padding", "extras", "signals"},
    {"errors", "arrays", "displayed"},
]
HEAVY = {
    "torch",
    "transformers",
    "matplotlib",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "scipy",
    "pandas",
    "pyarrow",
    "dask",
    "distributed",
    "fsspec",
    "datasets",
}
OWNERS = {
    "torch": {"tensors", "tracing", "probing"}, "transformers": {"text", "probing"}, "matplotlib": {"report"}, "tokenizers": {"text"},
    "huggingface_hub": {"text"}, "pyarrow": {"tables"}, "dask": {"inputs"}, "distributed": {"inputs"}, "fsspec": {"tensors"},
    "datasets": set(), "rich": {"report"}, "typer": {"cli"},
}  # fmt: skip


def level(room):
    return next(at for at, rooms in enumerate(ROOMS) if room in rooms)


def imports(path):
    """(top-level name, second name, at module level) of every import in a file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield parts[0], parts[1] if len(parts) > 1 else "", node in tree.body


FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for top, second, at_module_level in imports(path):
        if top in OWNERS and room not in ("__init__", "__main__"):
            assert room in OWNERS[top], f"{top} belongs to {OWNERS[top]}"
        assert not (at_module_level and top in HEAVY), f"{top} at module level"
        if top == "maskcli" and room not in ("__init__", "__main__") and second and second != "__version__":
            same = second == room
            assert same or level(second) > level(room), f"{room} imports {second}"


def modules_of(*arguments, code="import maskcli.cli; maskcli.cli._run()", whole=False):
    """Modules that a command has imported when it ends, in a process of its own; packages only, or the whole names."""
    script = f"import sys, json; sys.argv = ['maskcli', *{list(map(str, arguments))!r}]\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    command, environment = [sys.executable, "-c", script], plain_environment()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    names = json.loads(done.stderr[done.stderr.rindex("[") :])
    return set(names) if whole else {name.partition(".")[0] for name in names}


NEVER = {"torch", "transformers", "matplotlib", "huggingface_hub", "scipy", "pandas"}


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (("--help",), NEVER | {"numpy", "tokenizers", "rich", "safetensors"}),
        (("--version",), NEVER | {"numpy", "tokenizers", "rich", "safetensors"}),
        (("rule", "--all"), NEVER | {"tokenizers", "safetensors"}),
        (("docs", "masks"), NEVER | {"numpy", "tokenizers", "rich", "safetensors"}),
        (("show", "The cat"), NEVER | {"tokenizers", "safetensors"}),
        (("show", "The cat", "--format", "json"), NEVER | {"tokenizers", "safetensors", "rich"}),
        (("inspect", DATA / "minilm_attn.safetensors"), NEVER | {"tokenizers"}),
        (
            ("diff", "causal", "sliding:9", "--lengths", "9", "--format", "json"),
            NEVER | {"tokenizers", "rich"},
        ),
        (("diagnose", DATA / "minilm_attn.safetensors"), NEVER | {"tokenizers"}),
        (
            ("diagnose", DATA / "minilm_attn.safetensors", "--expect", "full", "--format", "json"),
            NEVER | {"tokenizers", "rich"},
        ),
    ],
)
def test_commands_import_only_what_they_need(arguments, absent):
    assert modules_of(*arguments) & absent == set()


# What other commands need, or other input: parts of this package and of numpy and Python that a start would pay for.
LATE = {
    "maskcli.cli.convert",
    "maskcli.cli.trace",
    "maskcli.tracing.watch",
    "maskcli.masks.arguments",
    "maskcli.report.pictures",
}
LATE |= {
    "maskcli.text.agreement",
    "numpy.ma",
    "numpy.random",
    "multiprocessing",
    "sqlite3",
    "asyncio",
    "unittest",
}


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (("rule", "MSK201"), {"maskcli.tracing", "maskcli.text", "maskcli.masks.naming"}),
        (
            ("show", "The cat"),
            {"maskcli.tracing", "maskcli.diagnostics", "maskcli.tensors", "maskcli.masks.naming"},
        ),
        (
            ("inspect", DATA / "minilm_attn.safetensors"),
            {"maskcli.tracing", "maskcli.text", "maskcli.diagnostics.rules"},
        ),
        (
            ("diagnose", DATA / "minilm_attn.safetensors"),
            {"maskcli.text", "maskcli.masks.naming", "maskcli.cli.show"},
        ),
    ],
)
def test_commands_import_no_room_in_vain(arguments, absent):
    assert modules_of(*arguments, whole=True) & (LATE | absent) == set()


def test_a_file_by_torch_needs_no_torch(tmp_path):
    torch.save({"attentions": torch.eye(2)[None, None]}, tmp_path / "x.pt")
    assert modules_of("diagnose", tmp_path / "x.pt") & NEVER == set()


def test_the_probe_can_fail(tmp_path):
    assert "torch" in modules_of(code="import torch")
    assert "matplotlib" in modules_of("show", "The cat", "-o", tmp_path / "a.png")


def test_importing_the_package_is_light():
    assert modules_of(code="import maskcli") & (NEVER | {"numpy", "typer", "rich"}) == set()


@pytest.mark.parametrize("rule", in_code_order(), ids=lambda rule: rule.code)
def test_every_rule_is_documented_and_tested(rule):
    assert rule.summary.endswith(".")
    assert len(rule.summary) < 120
    assert rule.why.endswith(".")
    assert len(rule.why) < 240
    told, consequence = (set(re.findall("[a-z]{4,}", text.lower())) for text in (rule.summary, rule.why))
    assert len(told & consequence) <= min(len(told), len(consequence)) / 2, "it says the same once more"
    assert "In code:" in rule.text
    assert "Fix:" in rule.text
    assert rule.severity in ("error", "warning", "note")
    table = RULES if rule in RULES else PROBED
    assert all(code in {each.code for each in table} for code in rule.explained_by)
    earlier = [each.code for each in table[: table.index(rule)]]
    assert set(rule.explained_by) <= set(earlier), "what explains a finding has to be looked for first"
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "diagnostics").glob("test_*.py"))
    assert f'"{rule.code}"' in tests


def test_codes_and_names_are_the_contract():
    names = {
        "MSK101": "empty-row", "MSK102": "inverted-mask", "MSK103": "binary-float-mask", "MSK104": "weak-fill",
        "MSK105": "overflowed-fill", "MSK106": "nan-mask", "MSK107": "negated-integer-mask", "MSK108": "query-axis-mask",
        "MSK201": "inverted-polarity", "MSK202": "padding-attended", "MSK203": "future-attended",
        "MSK204": "mask-not-applied", "MSK205": "uniform-masked-row", "MSK206": "uniform-attention",
        "MSK207": "unnormalised-rows", "MSK208": "softmax-axis", "MSK209": "mask-after-softmax", "MSK210": "soft-masking",
        "MSK211": "another-samples-mask", "MSK212": "double-softmax", "MSK213": "window-mismatch", "MSK214": "shifted-causal",
        "MSK215": "misaligned-causal-weights", "MSK216": "invalid-weights", "MSK217": "document-leak",
        "MSK218": "causal-encoder", "MSK219": "empty-cache-slots", "MSK220": "cross-mask-swapped",
        "MSK221": "grouped-heads-order", "MSK112": "ambiguous-broadcast", "MSK113": "mask-length", "MSK114": "mask-not-expected", "MSK222": "keys-never-seen",
        "MSK223": "bias-not-applied",
        "MSK306": "weights-not-used",
        "MSK301": "nan-from-empty-row", "MSK302": "nan-from-input", "MSK303": "score-overflow",
        "MSK304": "nan-through-value", "MSK305": "unexplained-nan", "MSK401": "padding-not-masked",
        "MSK402": "real-token-masked", "MSK501": "eos-not-supervised", "MSK502": "nothing-supervised",
        "MSK503": "padding-supervised", "MSK504": "prompt-supervised", "MSK505": "shifted-labels", "MSK506": "label-border",
        "MSK507": "eos-missing", "MSK508": "invalid-label",
        "MSK509": "prompt-turn-supervised", "MSK510": "answer-not-supervised",
        "MSK511": "turn-end-not-supervised", "MSK512": "header-supervised", "MSK518": "answer-cut", "MSK519": "same-pair",
        "MSK409": "doubled-start", "MSK410": "documents-positions", "MSK411": "first-position",
        "MSK412": "decoder-start", "MSK513": "trained-past-the-end", "MSK514": "labels-of-another-text",
        "MSK515": "label-length", "MSK516": "label-across-documents", "MSK517": "placeholder-supervised",
        "MSK109": "shifted-diagonal", "MSK110": "misaligned-causal",
        "MSK111": "wrong-window", "MSK403": "right-padding-for-generation", "MSK404": "left-padding-positions",
        "MSK405": "packed-without-block-mask", "MSK406": "bad-cu-seqlens", "MSK407": "swapped-token-types",
        "MSK408": "imprecise-positions",
        "MSK601": "future-reached", "MSK602": "padding-reached", "MSK603": "window-measured", "MSK604": "document-reached",
        "MSK605": "rows-reached", "MSK606": "padding-changes-output", "MSK607": "cache-changes-output",
        "MSK608": "empty-slot-reached", "MSK609": "weak-fill-reached", "MSK610": "source-padding-reached",
        "MSK611": "key-not-reached", "MSK612": "mixes-elsewhere", "MSK613": "not-covered",
    }  # fmt: skip
    rules = in_code_order()
    assert {rule.code: rule.name for rule in rules} == names
    assert len(rules) == len(names)


def test_files_are_checked_by_no_rule_of_behaviour():
    assert not {rule.code for rule in RULES} & {rule.code for rule in PROBED}
    assert all(rule.code.startswith("MSK6") == (rule in PROBED) for rule in in_code_order())


@pytest.mark.parametrize(
    "command", ["show", "diagnose", "audit", "trace", "probe", "rule", "docs", "inspect", "diff", "convert"]
)
def test_every_command_teaches_with_an_example(command):
    for flag in ("--help", "-h"):
        text = run(command, flag, check=0).stdout
        assert text.count(f"\n  maskcli {command}") >= 3
        assert "\n\nExit codes: " in text
        assert not any(raw in text for raw in ("int range", "list[", "<=x", "[.0]", "\\n'\n"))
    assert command in run("--help", check=0).stdout


def test_both_ways_to_start_are_one():
    import maskcli

    assert run("--version", check=0).stdout == f"maskcli {maskcli.__version__}\n"
    script = Path(sys.executable).with_name("maskcli")
    if script.exists():
        assert (
            subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
            == f"maskcli {maskcli.__version__}\n"
        )
