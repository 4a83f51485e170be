import gzip
import json

import pytest

from plait.data import formats

ROWS = [{"text": "first é", "id": 1}, {"text": "second\nline", "id": 2}]


def write(path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(ROWS))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.jsonl.gz"])
def test_every_format_gives_the_same_texts(tmp_path, name):
    write(tmp_path / name)
    assert list(formats.texts(tmp_path / name)) == ["first é", "second\nline"]


def test_nested_fields_are_read_in_reading_order(tmp_path):
    paper = {"title": "T", "body": {"paragraphs": [["a", "b"], ["c"]], "section": ["S1", "S2"]}}
    file = tmp_path / "a.json"
    for record in (
        {"doc": paper},
        {"doc": repr(paper)},
        {"doc": paper | {"body": repr(paper["body"])}},
    ):
        file.write_text(json.dumps([record]))
        found = list(formats.texts(file, ("doc.title", "doc.body")))
        assert found == ["T\n\nS1\n\na\n\nb\n\nS2\n\nc"]


def test_code_that_looks_like_a_mapping_stays_as_it_is(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "{'a': 1}"}))
    assert list(formats.texts(tmp_path / "a.jsonl")) == ["{'a': 1}"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text"', "line 2: damaged, not JSON"),
        ("a.jsonl", b'{"content": "x"}', "no field 'text' .there is: content"),
        ("a.jsonl", b"[1]", "no field 'text'"),
        ("a.json", b"\xff\xfe", "not JSON"),
        ("a.parquet", b"PAR1 but not really", "not parquet"),
        ("a.txt.gz", b"plain", "damaged gzip"),
        ("b.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-12], "damaged gzip"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(formats.texts(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
