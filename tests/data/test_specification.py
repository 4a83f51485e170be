import pytest

from plait.data import Specification, corpora
from plait.data.sources import Files

YAML = """
vocab_size: 4096
weights: {code: 75, notes: 25}
sources:
  - kind: standard-library
    parts: [json, email]
  - kind: files
    path: texts/**/*.md
    domain: notes
    licence: CC-BY-4.0
    fields: body
"""


def test_a_yaml_file_is_read_with_paths_relative_to_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(YAML)
    spec = corpora.specification(str(tmp_path / "mine.yaml"))
    assert spec.name == "mine"
    assert spec.domains == ("code", "notes")
    assert spec.weights == {"code": 75, "notes": 25}
    assert spec.sources[0].parts == ("json", "email")
    assert spec.sources[1] == Files(
        f"{tmp_path}/texts/**/*.md", domain="notes", licence="CC-BY-4.0", fields=("body",)
    )


@pytest.mark.parametrize("make", corpora.NAMED.values())
def test_plain_data_and_back(make):
    assert Specification.from_dict(make().to_dict()) == make()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("vocab_size", "vocabulary_size", "did you mean 'vocab_size'"),
        ("licence", "license", "did you mean 'licence'"),
        ("kind: files", "kind: file", "one of standard-library"),
        ("path: texts/**/*.md", "", "'path' is missing"),
        ("notes: 25", "note: 25", "weights"),
        ("domain: notes", "domain: ../notes", "use letters"),
        ("vocab_size: 4096", "validation: 0.5", "vocab_size .* or tokenizer"),
        ("vocab_size: 4096", "{vocab_size: 4096", "not YAML"),
        (YAML, "- 1", "not the specification"),
        (YAML, "vocab_size: 4096\nsources: mine", "give a list"),
        (YAML, "vocab_size: 4096\nsources: 3", "sources 3 is not of type"),
        (YAML, "vocab_size: 4096\nsources: []", "no sources"),
        ("vocab_size: 4096", "vocab_size: many", "vocab_size 'many' is not of type int"),
        ("vocab_size: 4096", "vocab_size: true", "vocab_size True is not of type int"),
        (YAML, "vocab_size: 4096\nsources: [3]", "source 3: give it a kind"),
        (YAML, "vocab_size: 4096\nsources: [{kind: {}}]", "give it a kind"),
        (YAML, "vocab_size: 4096\nsources: [{kind: []}]", "give it a kind"),
        (YAML, "[" * 3000, "nests deeper than 100"),
        (YAML, "when: 2020-13-45", "month must be in"),
        ("vocab_size: 4096", "vocab_size: 99999999999", "16,777,216 at the most"),
        ("vocab_size: 4096", "{vocab_size: 4096, validation: .nan}", "not YAML"),
        ("vocab_size: 4096", "vocab_size: 4096\nvalidation: .nan", "shares of the documents"),
        ("{code: 75, notes: 25}", "{code: 75}", "to each domain"),
        ("{code: 75, notes: 25}", "{}", "to each domain"),
        ("{code: 75, notes: 25}", "{code: x, notes: 25}", "weights .* is not of type"),
        ("{code: 75, notes: 25}", "{code: .nan, notes: 25}", "to each domain"),
        ("{code: 75, notes: 25}", "{1: 2, [3]: 4}", "not YAML"),
        ("{code: 75, notes: 25}", "{1: 2, 3: 4}", "to each domain"),
        ("vocab_size: 4096", "vocab_size: 4096\nstream: {shufle: 3}", "did you mean 'shuffle'"),
        ("vocab_size: 4096", "vocab_size: 4096\nstream: {sample: x}", "sample 'x' is not of type"),
        ("vocab_size: 4096", "vocab_size: 4096\nstream: {sample: 0}", "sample 0 .* 1 or more"),
        ("vocab_size: 4096", "vocab_size: 4096\nstream: true", "stream True is not of type"),
        ("parts: [json, email]", "parts: [1, {}]", "parts .* is not of type"),
        ("parts: [json, email]", "? {}\n    : 1", "not YAML"),
        ("path: texts/**/*.md", "path: 3.11", "path 3.11 is not of type str: put it in quotes"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path, old, new, message):
    (tmp_path / "mine.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        Specification.load(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="starter or starter-2k or papers"):
        corpora.specification("staarter")
