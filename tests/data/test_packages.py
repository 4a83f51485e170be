import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from plait.data.packages import DebianPackage, PythonPackage, fetched

FILES = {"toy/a.py": b"print('a')", "toy/tests/b.py": b"assert True", "toy/c.bin": b"\0"}


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "wheels" / "toy-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        info = "toy-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def package(digest):
    return PythonPackage(
        "toy", "1.0", digest, domain="code", include=("*.py",), exclude=("*/tests/*",)
    )


def texts(source, cache):
    return {document.name: document.text for document in source.documents(cache)}


def test_pip_fetches_a_wheel_that_is_then_kept(tmp_path, wheel, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    source = package(sha256(wheel))
    assert texts(source, tmp_path / "cache") == {"toy/a.py": "print('a')"}
    shutil.rmtree(wheel.parent)  # from here on there is nothing to fetch
    assert texts(source, tmp_path / "cache") == {"toy/a.py": "print('a')"}


def test_a_wheel_of_other_bytes_is_refused_and_not_kept(tmp_path, wheel, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(ValueError, match=r"pip cannot fetch toy==1\.0") as caught:
        texts(package("0" * 64), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_a_damaged_archive_in_the_cache_is_fetched_anew(tmp_path, wheel):
    def download(folder):
        shutil.copy(wheel, folder)

    kept = fetched(tmp_path, "toy-1.0", sha256(wheel), download)
    kept.write_bytes(kept.read_bytes()[:100])
    assert fetched(tmp_path, "toy-1.0", sha256(wheel), download).read_bytes() == wheel.read_bytes()


def test_an_archive_that_moved_on_is_told(tmp_path, wheel):
    with pytest.raises(ValueError, match="has moved on"):
        fetched(tmp_path, "toy.deb", "0" * 64, lambda folder: shutil.copy(wheel, folder))


def test_a_source_archive_is_read_as_a_tar(tmp_path):
    path = tmp_path / "downloads" / "toy-1.0"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert texts(package(sha256(path)), tmp_path) == {"toy/a.py": "print('a')"}


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_a_debian_package_is_unpacked(tmp_path):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (root / "usr" / "share").mkdir(parents=True)
    (root / "usr" / "share" / "a.rst").write_text("words")
    (tmp_path / "downloads").mkdir()
    subprocess.run(
        ["dpkg-deb", "-b", str(root), str(tmp_path / "downloads" / "toy.deb")],
        check=True,
        capture_output=True,
    )
    source = DebianPackage("toy", domain="prose", include=("usr/share/*.rst",))
    assert texts(source, tmp_path) == {"usr/share/a.rst": "words"}
    with pytest.raises(ValueError, match="no file matches"):
        texts(DebianPackage("toy", domain="prose", include=("*.pdf",)), tmp_path)
