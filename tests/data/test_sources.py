import json

import pytest

from plait.data.sources import Files, HubDataset, StandardLibrary


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
