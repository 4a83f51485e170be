"""What comes from outside is read within bounds, and what is wrong with it is one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.reading import SHOWN, inside, named, one_line, quoted, read_json, read_yaml

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(anything)
def test_a_value_is_repeated_in_one_short_line(value):
    assert len(quoted(value).splitlines()) == 1
    assert len(quoted(value)) <= 12 * SHOWN


def test_of_a_long_text_the_part_around_the_place_is_repeated():
    text = "a" * 1000 + "b" + "c" * 1000
    assert quoted(text, 1000) == f"…'{'a' * 30}b{'c' * 29}'…"
    assert quoted(text) == f"'{'a' * 60}'…"
    assert quoted(text, 2001) == f"…'{'c' * 60}'"
    assert quoted("x" * 60) == f"'{'x' * 60}'"
    assert quoted(1 << 20_000) == "2**20001"
    assert quoted([[[[[1] * 99] * 99] * 99] * 99]).endswith("…")
    assert named("experts.3.up") == "experts.3.up"
    assert named("a\nb") == r"'a\nb'"
    assert one_line(ValueError("a\n\n  b")) == "a b"
    assert one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"3", "not an object, but 3"),
        (b"[1, 2]", "not an object, but [1, 2]"),
        (b"[" * 10_000 + b"]" * 10_000, "recursion"),
        (b'{"a": ' * 10_000 + b"1" + b"}" * 10_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe", "utf-8"),
        (b"", "not JSON"),
        (b'{"half', "not JSON"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path, content, says):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: damaged.*: fetch it") as caught:
        read_json(tmp_path / "a.json", "fetch it")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 3000, "nests deeper than 100"),
        ("a: " + "{a: " * 3000, "nests deeper than 100"),
        ("- " * 3000 + "a", "nests deeper than 100"),
        ("when: 2020-13-45", "month must be in"),
        ("&a [*a]", "contains itself"),
        (BOMB, "more than 20,000 values"),
        (MERGES, "more than 20,000 values"),
        ("[" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("a: !!int ''", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("{[1]: 2}", "unhashable"),
        ("a: [", "not YAML"),
        ("\xff", "damaged"),
        ("#" * 1_000_001, "larger than"),
    ],
)
def test_what_is_no_yaml_is_named(tmp_path, text, says):
    (tmp_path / "a.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        read_yaml(tmp_path / "a.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_aliases_and_merges_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "base: &base {x: 1, y: [2]}\nmine: {<<: *base, x: 3}\nagain: *base"
    )
    value = read_yaml(tmp_path / "a.yaml")
    assert value["mine"] == {"x": 3, "y": [2]}
    assert value["again"] == value["base"]


def test_only_files_inside_a_folder_are_read(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (folder / "deeper" / "file").write_text("f")
    (folder / "file").symlink_to("deeper/file")
    (folder / "link").symlink_to("../secret")
    (folder / "absolute").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to("..")
    (folder / "circle").symlink_to("circle")
    assert inside(folder, "deeper/file").read_text() == "f"
    assert inside(folder, "file").read_text() == "f"
    for name in ("../secret", str(tmp_path / "secret"), "link", "absolute", "out/secret"):
        with pytest.raises(ValueError, match="leads out of"):
            inside(folder, name)
    for name in ("nothing", "deeper", "circle"):
        with pytest.raises(FileNotFoundError):
            inside(folder, name)
    for name in ("a\0b", "a" * 5000, "\ud800", "\r", "a\nb"):
        with pytest.raises(ValueError, match="cannot be the name") as caught:
            inside(folder, name)
        assert len(str(caught.value)) < 1000


def test_the_hub_clients_own_links_are_followed(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abcd").write_text("blob")
    (tmp_path / "models--a--b" / "other").write_text("no blob")
    (snapshot / "config.json").symlink_to("../../blobs/abcd")
    (snapshot / "evil.json").symlink_to("../../other")
    assert inside(snapshot, "config.json").read_text() == "blob"
    with pytest.raises(ValueError, match="leads out of"):
        inside(snapshot, "evil.json")
