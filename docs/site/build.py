"""Build the site of these pages: everything is made here, nothing is fetched.

python docs/site/build.py OUT              writes OUT/html; OUT/pages is what it was made from
python docs/site/build.py OUT optim data   quicker: of the package only these folders

The pages are Markdown that a code host shows as well, so they link to each other where they lie in
the repository. Here they are gathered into one folder, with the notebooks of `examples/` and what
is made from the source: a page for each command and one for each folder of the package.
"""

import fnmatch
import os
import re
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from commands import command_pages
from names import name_pages
from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

REPAIRS = {
    r'<p class="caption" role="heading">': '<p class="caption">',  # it has no level
    r'<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    r'<aside class="(toc-drawer[^"]*)">': r'<aside class="\1" aria-label="On this page">',
    r'<th class="head">(<p></p>)?</th>': '<td class="head"></td>',  # it heads nothing
    r'<div id="search-results">': '<h1>Search</h1><div id="search-results">',
    r"<pre>": '<pre tabindex="0">',  # it may scroll
    r'<div class="(table-wrapper[^"]*)">': r'<div class="\1" tabindex="0">',
    r"<dl>\s*(<dd><em class=\"sig-param\">.*?)</dl>": r'<span class="sig-params">\1</span>',
    r'<dd>(<em class="sig-param">[^\n]*)</dd>\n': r"<span>\1</span>\n",  # no list of terms
}
"""in a page: what is written in its place"""


def gathered() -> dict[Path, Path]:
    """Return what the site takes from the repository: each file, and its place in the site."""
    files = {path: path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.*")}
    files = {path: place for path, place in files.items() if place.parts[0] != HERE.name}
    files |= {path: Path("examples", path.name) for path in (ROOT / "examples").glob("*.ipynb")}
    return files | {ROOT / name: Path(name.lower()) for name in ("CHANGELOG.md", "CONTRIBUTING.md")}


def relinked(text: str, path: Path, files: dict[Path, Path]) -> str:
    """Return a page whose links lead to where the files lie in the site."""

    def link(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(path.parent / found[1]))
        if target not in files:
            return found[0]
        return f"]({os.path.relpath(files[target], files[path].parent)}"

    return re.sub(r"\]\(([^():#\s]+)", link, text)


def without_empty_lists(text: str, places: list[str]) -> str:
    """Return a page whose lists ask for no pages of which there are none, such as results."""

    def asked(line: str) -> bool:
        return not re.fullmatch(r"[\w/]+\*", line) or bool(fnmatch.filter(places, line))

    return "\n".join(filter(asked, text.split("\n")))


def write(path: Path, text: str) -> None:
    """Write a file, unless it says so already: Sphinx reads again what is newer."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def gather(folder: Path, rooms: Collection[str] = ()) -> None:
    """Fill a folder with all pages; what is of an earlier build and no longer there is removed."""
    files = gathered()
    pages = {f"commands/{name}.md": text for name, text in command_pages().items()}
    pages |= {f"names/{name}.rst": text for name, text in name_pages(rooms).items()}
    for path, place in files.items():
        if path.suffix in (".md", ".ipynb"):
            pages[str(place)] = relinked(path.read_text(encoding="utf-8"), path, files)
        else:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / place)
    pages["index.md"] = without_empty_lists(pages["index.md"], list(pages))
    for place, text in pages.items():
        write(folder / place, text)
    there = {*pages, *map(str, files.values())}
    for path in folder.rglob("*.*"):
        if str(path.relative_to(folder)) not in there:
            path.unlink()


def repair(folder: Path) -> None:
    """Mend what the theme leaves undone for readers who hear a page or move by keyboard."""
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in REPAIRS.items():
            text = re.sub(pattern, replacement, text, flags=re.DOTALL)
        path.write_text(text, encoding="utf-8")


def main(out: Path, rooms: Collection[str] = ()) -> int:
    """Gather and build; anything that Sphinx warns of is a failure."""
    gather(out / "pages", rooms)
    shutil.rmtree(out / "html", ignore_errors=True)  # pages that are no more
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--write-all"]
    places = ["--conf-dir", HERE, "--doctree-dir", out / "doctrees", out / "pages", out / "html"]
    part = ["--define", f"is_a_part={int(bool(rooms))}"]
    if failed := sphinx([*strict, *part, *map(str, places)]):
        return failed
    repair(out / "html")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
