"""Growth: how long a text may become in a tokenizer, by the parts that its tokenizer.json describes.

The library allocates what a part asks for and ends the process where that fails: thirty replacements of "a"
by "aa" fit in 2 KiB and make a gigabyte of one letter.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.text.tokenizer import quoted

# Letters that may become of one: U+FDFA is 18 in NFKC, and a file may do that to one twice.
MOST = 64
# Letters of a word that WordPiece may look up piece by piece, each with all that follow: it says 100 itself.
MAX_WORD = 1000
# Bytes of a normalizer: the tables of SentencePiece take some 300 KiB.
MAX_NORMALIZER = 2**22
_NORMALIZER = re.compile(rb'"normalizer"\s*:\s*(?=\{)')
# A plain letter of a name, spelled as an escape.
_SPELLED = re.compile(rb"\\u00[2-7]")
_INNER = ("normalizers", "pretokenizers", "processors")


def check_growth(backend: Any, named: str) -> None:
    """Refuse a `tokenizers.Tokenizer` in which texts grow as in no real one, or words never end."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
    _check(
        math.prod(growth(json.loads(bytes(part.__getstate__()))) for part in parts if part is not None), named
    )
    longest = getattr(backend.model, "max_input_chars_per_word", 0)
    if longest > MAX_WORD:
        raise MaskcliError(
            f"tokenizer {quoted(named)} takes words of {longest:,} letters apart and at most {MAX_WORD:,} "
            "are taken; set max_input_chars_per_word to 100 in its tokenizer.json"
        )


def check_added(data: bytes, named: str) -> None:
    """Refuse the same of a tokenizer.json before it is loaded: its normalizer is given the tokens it adds."""
    for normalizer in _normalizers(data):
        _check(growth(normalizer), named)


def _check(times: int, named: str) -> None:
    if times > MOST:
        raise MaskcliError(
            f"tokenizer {quoted(named)} may make {quoted(times)} letters of one, and real ones {MOST}; "
            "pass another"
        )


def _normalizers(data: bytes) -> Iterator[Any]:
    """Whatever may be the file's normalizer; the vocabulary, nearly all of the file, is not read."""
    try:
        if _SPELLED.search(data):
            yield json.loads(data).get("normalizer")
            return
        for match in _NORMALIZER.finditer(data):
            text = data[match.end() : match.end() + MAX_NORMALIZER].decode("utf-8", "replace")
            yield json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError, AttributeError):
        # The library says what is wrong with it.
        return


def growth(part: Any) -> int:
    """The most that becomes of a letter in a normalizer, pre-tokenizer or post-processor, as JSON.

    >>> growth({"type": "Replace", "pattern": {"String": "ab"}, "content": "bcd"})
    2
    """
    if not isinstance(part, dict):
        return 1
    kind = part.get("type")
    if kind == "Sequence":
        return math.prod(growth(each) for key in _INNER for each in part.get(key) or ())
    if kind == "Replace":
        return _replaced(part.get("pattern"), len(str(part.get("content"))))
    if kind == "Prepend":
        return 1 + len(str(part.get("prepend")))
    if kind == "ByteLevel":
        # A letter for each byte of a letter.
        return 4
    if kind == "Precompiled":
        return _longest(str(part.get("precompiled_charsmap")))
    if kind == "TemplateProcessing":
        return max(str(part.get(pieces)).count("'Sequence'") for pieces in ("single", "pair")) or 1
    return 1


def _replaced(pattern: Any, content: int) -> int:
    """What becomes of a plain text, or of a letter where an expression also matches behind it."""
    plain = len(str(pattern.get("String", ""))) if isinstance(pattern, dict) else 0
    return max(-(-content // plain), 1) if plain else 1 + content


def _longest(charsmap: str) -> int:
    """The longest that a table of SentencePiece puts in place of a letter: its texts lie behind a trie."""
    table = base64.b64decode(charsmap)
    texts = table[4 + int.from_bytes(table[:4], "little") :].decode("utf-8", "replace")
    return max(map(len, texts.split("\0"))) or 1
