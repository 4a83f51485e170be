import json

import pytest

from plait.data.sources import Files, HubDataset, PythonFunction, StandardLibrary


def read(source, cache="unused"):
    return {document.name: document for document in source.documents(cache)}


def test_a_folder_gives_the_files_of_known_kinds(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "deep" / "b.md").write_text("b")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    found = read(Files(str(tmp_path), domain="notes", licence="MIT"))
    assert {name: document.text for name, document in found.items()} == {
        "a.txt": "a",
        "deep/b.md": "b",
    }
    assert found["a.txt"].domain == "notes"
    assert found["a.txt"].licence == "MIT"


def test_a_pattern_takes_what_it_matches(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.tex", "deep/b.tex", "deep/c.txt"):
        (tmp_path / name).write_text(name)
    assert set(read(Files(f"{tmp_path}/**/*.tex", domain="x"))) == {"a.tex", "deep/b.tex"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\x7fELF\0\0", "not UTF-8"), (None, "no such file")],
)
def test_one_bad_file_is_named_with_the_fix(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read(Files(str(tmp_path / "a.txt"), domain="x"))
    assert "a.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_stamp_changes_with_the_files(tmp_path):
    source = Files(str(tmp_path), domain="x")
    (tmp_path / "a.txt").write_text("a")
    before = source.stamp()
    assert source.stamp() == before
    (tmp_path / "b.txt").write_text("b")
    assert source.stamp() != before


def test_the_standard_library_is_read_by_parts_and_without_tests():
    assert "json/decoder.py" in (found := read(StandardLibrary(parts=("json", "bisect"))))
    assert "bisect.py" in found
    assert all(name.startswith(("json/", "bisect")) for name in found)
    everything = read(StandardLibrary())
    assert not any("/test/" in f"/{name}" or "site-packages" in name for name in everything)


def test_a_hub_dataset_is_read_by_row(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"body": f"row {n}"}) + "\n" for n in range(3))
    )
    found = read(HubDataset(str(tmp_path), domain="x", fields=("body",)))
    assert [document.text for document in found.values()] == ["row 0", "row 1", "row 2"]
    with pytest.raises(ValueError, match="cannot be loaded"):
        read(HubDataset(str(tmp_path / "missing"), domain="x"))


def test_a_function_gives_any_iterable_of_texts_or_mappings(tmp_path):
    (tmp_path / "own.py").write_text(
        "def texts():\n"
        "    yield 'first'\n"
        "    yield {'body': 'second', 'id': 2}\n"
        "def listed():\n"
        "    return ['only']\n"
    )
    given = read(PythonFunction(f"{tmp_path}/own.py:texts", domain="x", fields=("body",)))
    assert [document.text for document in given.values()] == ["first", "second"]
    assert {document.domain for document in given.values()} == {"x"}
    listed = PythonFunction(f"{tmp_path}/own.py:listed", domain="x")
    assert [document.text for document in read(listed).values()] == ["only"]
    before = listed.stamp()
    (tmp_path / "own.py").write_text("def listed():\n    return ['another']\n")
    assert listed.stamp() != before


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def texts():\n    yield 'a'\n    yield 1 / 0\n", "own.py, line 3: ZeroDivisionError"),
        ("def texts():\n    return 'one text'\n", "returns an iterable of texts"),
        ("other = 1\n", "returns an iterable of texts"),
        ("def texts():\n    return ['a', None]\n", "document 1: NoneType is neither text nor"),
        ("def texts():\n    return [{'body': 'a'}]\n", "document 0"),
        ("def texts(:\n", "own.py, line 1: SyntaxError"),
    ],
)
def test_what_is_wrong_in_a_function_is_one_line(tmp_path, code, says):
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ValueError, match=says) as caught:
        read(PythonFunction(f"{tmp_path}/own.py:texts", domain="x"))
    assert "\n" not in str(caught.value)


def test_a_function_is_named_by_its_file(tmp_path):
    with pytest.raises(ValueError, match=r"FILE\.py:FUNCTION"):
        PythonFunction("texts", domain="x")
    with pytest.raises(FileNotFoundError, match="no file"):
        read(PythonFunction(f"{tmp_path}/own.py:texts", domain="x"))
