"""The pages: `maskcli docs` prints them, and what they say is so."""

import json
import re

import pytest
from rich.cells import cell_len

from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.kinds import KINDS
from tests.cli.running import ROOT, refused, run
from tests.documents import (
    CONSOLE,
    FOLDER,
    MAPPED,
    PAGES,
    README,
    SHELL,
    commands,
    counted,
    example,
    facts_table,
    furnished,
    maps,
    pretty,
    printed,
    rules_page,
    run_python,
)

EVERY = {page.stem: page.read_text() for page in PAGES}


def blocks(pattern):
    return [(name, block) for name, text in EVERY.items() for block in pattern.finditer(text)]


def named(case):
    name, block = case
    return f"{name}: {next(iter(block.groupdict().values()))[:40]}"


@pytest.fixture(scope="module")
def folder():
    with furnished() as made:
        yield made


@pytest.mark.parametrize("case", blocks(CONSOLE), ids=named)
def test_outputs_are_real(case, folder):
    _, block = case
    assert printed(block["command"], folder) == block["output"]


@pytest.mark.parametrize("case", blocks(SHELL), ids=named)
def test_commands_run(case, folder):
    _, block = case
    for arguments in commands(block):
        example(arguments, folder)


@pytest.mark.parametrize("name", [name for name, text in EVERY.items() if "```python" in text])
def test_python_runs(name, monkeypatch):
    # A folder of its own: what they save has the names of files that commands read.
    with furnished() as own:
        assert run_python(EVERY[name], own, monkeypatch)


def test_the_command_lists_the_pages_and_prints_one_as_it_is():
    listed = run("docs", check=0).stdout.splitlines()
    assert [line.split()[0] for line in listed] == sorted(EVERY)
    for name, text in EVERY.items():
        assert text.startswith("# ")
        assert run("docs", name, check=0).stdout == text


@pytest.mark.combinations
@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("name", [*EVERY, None])
def test_a_page_fits_the_terminal(name, columns):
    arguments = ("docs",) if name is None else ("docs", name)
    text = run(*arguments, check=0, COLUMNS=str(columns)).stdout
    assert "\x1b" not in text
    assert "```" not in text
    assert max(map(cell_len, text.splitlines())) <= columns


def test_a_terminal_with_colour_gets_it():
    assert "\x1b[" in run("docs", "masks", check=0, COLUMNS="80", FORCE_COLOR="1").stdout


def test_an_unknown_page_is_one_sentence():
    assert "did you mean masks?" in refused("docs", "mask")
    assert "maskcli docs lists them" in refused("docs", "../cli/docs")


def test_links_lead_somewhere():
    for path in (README, *PAGES):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            assert link.startswith("https://") or (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_page_of_rules_is_the_catalogue_and_readme_counts_it():
    assert EVERY["rules"] == rules_page()
    assert counted() in README.read_text()


def test_every_kind_convention_and_fact_is_described():
    text = EVERY["masks"]
    assert all(f"| `{name}" in text for name in KINDS)
    for name, row in CONVENTIONS.items():
        cells = f"| `{name}` | {row.values.attend} | {row.values.ignore} | {row.dtype} |"
        (line,) = [line for line in text.splitlines() if line.startswith(cells)]
        assert line.endswith(f"| {row.who} |")
    assert facts_table() in EVERY["diagnose"]


def keys_of(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in ("evidence", "arguments"):
                yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def test_every_key_of_json_is_explained():
    outputs = CONSOLE.findall(EVERY["json"])
    prose = CONSOLE.sub("", EVERY["json"])
    assert len(outputs) >= 5
    for _, output in outputs:
        for key in set(keys_of(json.loads(output))):
            assert re.search(rf"\b{key}\b", prose), key


def test_json_is_set_in_lines_that_fit():
    value = {
        "short": [1, 2],
        "long": ["word " * 12] * 3,
        "deep": {"a": {"b": ["x" * 60, "y" * 60]}},
        "none": None,
    }
    assert json.loads(pretty(value)) == value
    assert max(map(len, pretty(value).splitlines())) <= 100
    assert pretty([1, {"a": None}]) == '[1, {"a": null}]'


def test_the_pages_are_in_the_package():
    assert FOLDER == ROOT / "maskcli" / "docs"
    assert 'include = ["maskcli"' in (ROOT / "pyproject.toml").read_text()


def listed():
    """The files of the tree in the page of the house, with the words beside each."""
    (tree,) = re.findall(r"```text\n(.*?)```", EVERY["house"], re.DOTALL)
    folder = FOLDER.parent
    for line in tree.splitlines():
        name, words = line.split(maxsplit=1) if " " in line.strip() else (line.strip(), "")
        if line.startswith(" "):
            yield folder / name, words
        else:
            folder = FOLDER.parent / name if name != "maskcli/" else FOLDER.parent
            yield folder, words


def test_the_tree_of_the_house_is_whole_and_brief():
    tree = dict(listed())
    written = (path for kind in ("py", "js", "css") for path in FOLDER.parent.rglob(f"*.{kind}"))
    files = {path for path in written if path.name != "__init__.py"}
    rooms = {path.parent for path in files}
    assert set(tree) == files | rooms
    assert all(1 <= len(words.split()) <= 6 for path, words in tree.items() if path != FOLDER.parent)


def test_the_recipes_name_files_that_are_there():
    prose = re.sub(r"```.*?```", "", EVERY["house"], flags=re.DOTALL)
    named = re.findall(r"`((?:\w+/)+[\w.]*)`", prose)
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists() or (FOLDER.parent / name).exists(), name
    recipes = re.findall(r"^\*\*An? (.+?)\*\*", prose, re.MULTILINE)
    assert len(recipes) >= 7


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("A kind of mask", 1),
        ("A rule", 2),
        ("A file format", 2),
        ("A convention", 1),
        ("A declared fact", 1),
        ("An attention function to trace", 2),
    ],
)
def test_an_addition_costs_few_files(what, files):
    (recipe,) = re.findall(rf"\*\*{what}\*\*: (.*?\.)\s", EVERY["house"], re.DOTALL)
    assert len(set(re.findall(r"`((?:\w+/)+[\w.]*)`", recipe))) == files


def test_every_kind_has_a_map():
    assert maps() in EVERY["masks"]
    assert {text.partition(":")[0].partition("(")[0] for text in MAPPED} == {*KINDS, "per-document"}
    assert max(map(len, maps().splitlines())) <= 60
