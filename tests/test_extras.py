"""What extras bring: all of it is here, and what needs an absent package is refused in one sentence."""

import re
import sys
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
from packaging.requirements import Requirement

import maskcli
from maskcli.errors import MaskcliError
from maskcli.extras import EXTRAS, MissingError
from maskcli.inputs.user_code import load_function
from maskcli.probing.subject import Loading, load
from maskcli.tensors import open_tensors, write_tensors
from maskcli.text import load_tokenizer
from tests.cli.running import ROOT
from tests.text.conftest import write_json

PROJECT = (ROOT / "pyproject.toml").read_text()


def extra(name):
    """The requirements of an extra, as pyproject.toml lists them."""
    (listed,) = re.findall(rf"^{name} = \[(.*?)\]\n", PROJECT, re.MULTILINE | re.DOTALL)
    return [Requirement(text) for text in re.findall(r'"(.+?)"', listed)]


def test_all_is_every_extra_and_the_tests_run_with_it():
    (everything,) = extra("all")
    assert everything.extras == set(EXTRAS.values())
    assert Requirement("maskcli[all]") in extra("test")
    for requirement in (each for name in everything.extras for each in extra(name)):
        assert requirement.specifier.contains(version(requirement.name), prereleases=True)
        assert {each.operator for each in requirement.specifier} == {">="}


def test_a_bare_install_has_no_package_of_an_extra():
    (needed,) = re.findall(r"^dependencies = \[(.*?)\]", PROJECT, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r'"([\w-]+)', needed)) & EXTRAS.keys() == set()


def sparse(folder):
    """An archive whose pickle calls what maskcli does not follow."""
    path = folder / "sparse.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sparse/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n.")
    open_tensors(str(path))


def written(folder):
    write_tensors(folder / "mask.pt", {"mask": open_tensors(numbers(folder)).tensors[0]})


def numbers(folder):
    np.save(folder / "mask.npy", np.eye(3))
    return str(folder / "mask.npy")


def user_code(folder):
    (folder / "own.py").write_text("import torch\n")
    load_function(str(folder / "own.py"), "mask")


def vocabulary(folder):
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    load_tokenizer(str(folder))


def file_of_a_class(folder):
    """A tokenizer.json whose class reads it as only transformers knows: never read as it stands instead."""
    write_json(
        folder / "tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    )
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "SomeOtherTokenizer"})
    load_tokenizer(str(folder / "tokenizer.json"))


def parquet(folder):
    (folder / "rows.parquet").write_bytes(b"PAR1" + bytes(16) + b"PAR1")
    maskcli.audit(str(folder / "rows.parquet"))


def remote(folder):
    maskcli.diagnose(f"s3://{folder.name}/a.npy")


@pytest.mark.parametrize(
    ("package", "asks"),
    [
        ("torch", sparse), ("torch", written), ("torch", user_code), ("torch", lambda folder: maskcli.trace()),
        ("torch", lambda folder: load(str(folder), Loading())), ("transformers", lambda folder: load(str(folder), Loading())),
        ("transformers", vocabulary), ("transformers", file_of_a_class), ("pyarrow", parquet), ("fsspec", remote),
    ],
)  # fmt: skip
def test_what_needs_an_absent_package_says_how_to_install_it(package, asks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError) as refused:
        asks(tmp_path)
    assert f" needs {package} (" in str(refused.value)
    assert f'; pip install "maskcli[{EXTRAS[package]}]"' in str(refused.value)
    assert isinstance(refused.value, MaskcliError)
    assert not (tmp_path / "mask.pt").exists()
