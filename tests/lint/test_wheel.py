"""The wheel holds real files of every package, although fastvideo/ links to four of its folders."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .source_tree import ROOT, project_files

PACKAGES = ("fastvideo", "fastvideo_ir", "passes", "backends", "frontends", "runtime")
LINKED = ("passes", "backends", "frontends", "runtime")


def name_in_wheel(path: Path) -> str:
    return f"fastvideo/{path}" if path.parts[0] in LINKED else str(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, since setuptools writes its build folder beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for path in project_files(ROOT):
        if path.parts[0] in PACKAGES or path.parent == Path():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, tree / path)
    for name in LINKED:
        (tree / "fastvideo" / name).symlink_to(Path("..", name))
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, str(folder), str(tree)]
    subprocess.run(command, check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_links_are_relative() -> None:
    assert {name: (ROOT / "fastvideo" / name).readlink() for name in LINKED} == {
        name: Path("..", name) for name in LINKED
    }


def test_wheel_holds_every_module_as_a_file(wheel: Path) -> None:
    expected = {
        name_in_wheel(path)
        for path in project_files(ROOT, ".py", ".json", ".yaml", ".fvir", ".safetensors")
        if path.parts[0] in PACKAGES
    }
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
    assert not links
    assert expected - {entry.filename for entry in entries} == set()


def test_wheel_installs_nothing_beside_the_two_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fastvideo", "fastvideo_ir"}


def test_wheel_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {"fastvideo/py.typed", "fastvideo_ir/py.typed"} <= set(archive.namelist())
