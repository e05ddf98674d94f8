"""Counts, runs and items in words."""

from maskcli.masks.words import counted, first, items_in_words, runs_in_words, span


def test_counts_runs_and_items_in_words():
    assert [counted(count, "file") for count in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]
    assert first(["a", "b"], 2) == "a, b"
    assert first(["a", "b", "c"], 2) == "a, b …"
    assert [span(4, 5), span(12, 16)] == ["4", "12..16"]
    assert runs_in_words(((4, 5),), "key", "keys") == "key 4"
    assert runs_in_words(((4, 6),), "key", "keys") == "keys 4..6"
    assert runs_in_words(((4, 5), (7, 9)), "key", "keys") == "keys 4, 7..9"
    assert runs_in_words(tuple((at, at + 1) for at in range(0, 10, 2)), "key", "keys") == "keys 0, 2, 4, 6 …"
    assert [items_in_words((2,)), items_in_words((0, 3))] == ["sample 2", "samples 0, 3"]
    assert items_in_words(range(9)) == "samples 0, 1, 2, 3, 4, 5, 6, 7 …"
