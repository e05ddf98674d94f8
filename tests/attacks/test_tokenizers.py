"""Tokenizers and chat templates that a few bytes make endless: refused before they take memory or time."""

import json

import pytest

from maskcli.errors import MaskcliError
from maskcli.text import load_tokenizer
from maskcli.text.growth import growth
from tests.cli.running import refused

DOUBLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
WORDS = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
CHAT = [{"role": "user", "content": "a"}]
TWICE = (
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
)


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def tokenizer(path, **parts):
    """A tokenizer.json with some parts."""
    none = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    whole = {"version": "1.0", **none, "added_tokens": [], "model": WORDS, **parts}
    path.write_text(json.dumps(whole))
    return path


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": sequence("normalizers", *[DOUBLING] * 30)},
        {"normalizer": sequence("normalizers", sequence("normalizers", *[DOUBLING] * 30))},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 100}},
        {"normalizer": {"type": "Prepend", "prepend": "a" * 100}},
        {"normalizer": sequence("normalizers", *[{"type": "ByteLevel"}] * 30)},
        {"pre_tokenizer": sequence("pretokenizers", *[BYTES] * 30)},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [TEXT] * 65,
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
    ids=lambda parts: "".join(parts),
)
def test_a_letter_becomes_no_gigabyte(parts, tmp_path):
    # An added token goes through the normalizer while the file is loaded.
    added = {"id": 2, "content": "aa", "single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": True, "special": False}
    with pytest.raises(MaskcliError, match="letters of one"):
        load_tokenizer(str(tokenizer(tmp_path / "tokenizer.json", added_tokens=[added], **parts)))


def test_names_in_escapes_hide_nothing(tmp_path):
    path = tokenizer(tmp_path / "tokenizer.json", normalizer=sequence("normalizers", *[DOUBLING] * 30))
    path.write_text(path.read_text().replace('"normalizer"', '"normali\\u007aer"'))
    with pytest.raises(MaskcliError, match="letters of one"):
        load_tokenizer(str(path))


def test_a_word_without_end_is_refused(tmp_path):
    pieces = {"type": "WordPiece", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    pieces |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 10**9}
    with pytest.raises(MaskcliError, match="words of 1,000,000,000 letters"):
        load_tokenizer(str(tokenizer(tmp_path / "tokenizer.json", model=pieces)))


def test_what_real_tokenizers_do_is_little():
    marks = sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, {**DOUBLING, "content": "▁"})
    assert growth(marks) == 2
    assert growth({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}) == 2
    assert growth(None) == growth({"type": "NFKC"}) == growth(sequence("normalizers")) == 1


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "ran for more than",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(50) }}",
            "ran for more",
        ),
        (TWICE, "of memory"),
        ("{{ 'a'.center(100000000000) }}", "of memory"),
        ("{{ 'a' * 20000000 }}", "more than 16,777,216 letters"),
        ("{{ 10 ** 100000000 }}", r"uses \*\*"),
        ("{{ ('a' * 1000000)|wordwrap(1) }}", "uses wordwrap"),
    ],
)
def test_a_template_has_an_allowance(template, words, tmp_path, monkeypatch):
    from maskcli.text import templates

    monkeypatch.setattr(templates, "_SECONDS", 0.2 if "ran" in words else 60)
    tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(MaskcliError, match=words):
        load_tokenizer(str(tmp_path), chat=True, template=template).template.render(CHAT)


def test_many_renderings_share_their_time(tmp_path, monkeypatch):
    from maskcli.text import templates

    monkeypatch.setattr(templates, "_SECONDS", 0.2)
    tokenizer(tmp_path / "tokenizer.json")
    slow = "{% for i in range(99999) %}{% for j in range(9) %}{% endfor %}{% endfor %}"
    made = load_tokenizer(str(tmp_path), chat=True, template=slow).template
    with pytest.raises(MaskcliError, match="ran for more than"):
        list(map(made.render, [CHAT] * 100))


def test_what_stars_also_are_is_no_power(tmp_path):
    tokenizer(tmp_path / "tokenizer.json")
    template = "**{{ dict(**{'a': '**'}).a }} {{ messages[0].content }}"
    made = load_tokenizer(str(tmp_path), chat=True, template=template).template
    assert made.render(CHAT) == "**** a"
    assert made.many([CHAT] * 2).ids == [[1], [1]]


def test_a_panic_is_one_sentence(tmp_path):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path = tokenizer(tmp_path / "tokenizer.json", pre_tokenizer=split)
    assert "retry-limit" in refused("show", "a" * 60 + "b", "-t", path)
