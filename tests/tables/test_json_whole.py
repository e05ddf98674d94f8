"""JSON of one piece: a list of rows read row by row, and an object of columns."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from tests.tables.whole import as_rows, columns, read_back, telling

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.long
@anywhere
@given(
    columns.filter(lambda columns: columns["labels"]),
    st.integers(1, 50),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_lists_and_columns_in_blocks_of_any_size(tmp_path, columns, block, indent, as_columns):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(columns if as_columns else as_rows(columns), indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskcli.tables.json_whole.BLOCK", block)
        assert read_back(path, rows=3)[1] == telling(columns)


def test_what_a_json_file_holds_is_told_by_its_content(tmp_path):
    path = tmp_path / "x.json"
    for text, expected in [
        ('{"a": [1, 2], "t": "\u00e4"}', {"a": [[1, 2]], "t": ["ä"]}),
        ('{"a": [1, 2]}\n{"a": [3]}', {"a": [[1, 2], [3]]}),
        ('\n{"a": [1, 2]}\n', {"a": [[1, 2]]}),
        ('{"a": [[1, 2]]}', {"a": [[1, 2]]}),
        ('{"a": [[1, 2]]}\n{"a": [[3]]}', {"a": [[[1, 2]], [[3]]]}),
        ('{\n"a": [[1, 2]]\n}', {"a": [[1, 2]]}),
        ('{\n"a": [1, 2]\n}', {"a": [[1, 2]]}),
        (
            '\ufeff [ {"a": 1}\n, {"a": 2, "messages": [{"role": "user"}]} ] ',
            {"a": [1, 2], "messages": [None, [{"role": "user"}]]},
        ),
        ("[]", {}),
    ]:
        path.write_text(text, encoding="utf-8")
        assert read_back(path)[1] == expected


@pytest.mark.parametrize("block", [1, 2**20])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1} {"a": 2}]', "row 1 of '{path}' does not follow a comma"),
        ('[{"a": 1}, {"a": 2}', "row 2 of '{path}' does not follow a comma"),
        ('[{"a": 1},', "row 1 of '{path}' is not JSON (Expecting value)"),
        ('[{"a": 1}, {"a": nul', "row 1 of '{path}' is not JSON"),
        ('[{"a": 1}, {"a": nil, "b": "long enough to be no literal"}]', "row 1 of '{path}' is not JSON"),
        ('[{"a": 1}, 3]', "row 1 of '{path}' holds a JSON int"),
        ('[{"a": 1}] x', "'{path}' has more behind its end"),
        ("[[1, 2], [3]]", "row 0 of '{path}' holds a JSON list"),
        ('{\n"a": [1, 2}', "the object of '{path}' is not JSON"),
    ],
)
def test_bad_lists_name_the_row(tmp_path, monkeypatch, text, said, block):
    monkeypatch.setattr("maskcli.tables.json_whole.BLOCK", block)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(MaskcliError) as caught:
        read_back(path)
    assert said.replace("{path}", str(path)) in str(caught.value)
