"""What is shipped: a wheel that works alone in an empty folder, and one version number everywhere."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "constraints.txt")
SHIPPED = {f"lit_talr/{file.relative_to(ROOT).as_posix()}" for pattern in ("*.yaml", "*.jinja") for file in (ROOT / "configs").rglob(pattern)}


def run(folder: Path, *words: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def build_wheel(tree: Path, out: Path) -> Path:
    run(tree, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(out), ".")
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, the link to the configurations still a link, so that a build leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("tree")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in ("lit_talr", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_wheel_holds_code_configurations_and_types(wheel: Path) -> None:
    code = {file.relative_to(ROOT).as_posix() for file in (ROOT / "lit_talr").rglob("*.py")}
    assert SHIPPED
    assert {name for name in names(wheel) if ".dist-info/" not in name} == code | SHIPPED | {"lit_talr/py.typed"} | package_data()


def package_data() -> set[str]:
    """Models, tables and pages that lie beside the code."""
    patterns = ("*.yaml", "*.json", "*.jinja", "*.safetensors", "*.md", "*.html", "*.css", "*.js")
    files = [file for pattern in patterns for file in (ROOT / "lit_talr").rglob(pattern)]
    return {file.relative_to(ROOT).as_posix() for file in files if file.relative_to(ROOT).as_posix() not in SHIPPED}


@pytest.mark.slow
def test_source_archive_gives_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    run(tree, "-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        assert not [member.name for member in file if member.issym()]
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert names(build_wheel(source, tmp_path / "wheel")) == names(wheel)


def test_metadata(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    assert "License-Expression: Apache-2.0\n" in text
    assert "License-File: LICENSE\n" in text
    assert "Requires-Python: >=3.11\n" in text
    (scripts,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "lit-talr = lit_talr.__main__:main" in scripts.read_text()


def test_unpacked_wheel_answers_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    assert "fit" in run(tmp_path, "-m", "lit_talr", "--help", PYTHONPATH=str(unpacked))
    code = "import lit_talr, pathlib; print(pathlib.Path(lit_talr.__file__).parent)"
    assert run(tmp_path, "-c", code, PYTHONPATH=str(unpacked)).strip() == str(unpacked / "lit_talr")


@pytest.mark.slow
def test_shipped_tokenizer_is_found_from_an_empty_folder(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    folder = "lit_talr/lab/base"
    assert {f"{folder}/{name}" for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")} <= names(wheel)
    code = f"from lit_talr.data.tokenizer import load_tokenizer; print(load_tokenizer({folder!r}).decode([1]))"
    assert run(tmp_path, "-c", code, PYTHONPATH=str(unpacked)).strip() == "<|end|>"


@pytest.mark.slow
def test_shipped_configurations_are_found_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    words = ["-c", "configs/base.yaml", "-c", "configs/model/tiny.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml"]
    printed = yaml.safe_load(run(tmp_path, "-m", "lit_talr", "fit", *words, "--model.tokenizer", "none", "--print_config", PYTHONPATH=str(unpacked)))
    assert printed["model"]["loss"]["class_path"].endswith(".TALR")


def setup_version() -> str:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["metadata"]["version"]


def test_one_version_number() -> None:
    version = setup_version()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version == (headings[1] if len(headings) > 1 else "0.1.0")  # nothing is released before the first version


def test_direct_dependencies_lie_within_the_constraints() -> None:
    from packaging.requirements import Requirement

    parser = configparser.ConfigParser(comment_prefixes=("#",), inline_comment_prefixes=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options"]["install_requires"].split("\n") + parser["options.extras_require"]["dev"].split("\n")
    frozen = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    for requirement in (Requirement(line) for line in lines if line.strip()):
        if requirement.name != "setuptools":
            pinned = frozen.get(requirement.name.lower())
            assert pinned, f"{requirement.name} is not in constraints.txt; run `make freeze`."
            assert requirement.specifier.contains(pinned), f"constraints.txt pins {requirement.name} to {pinned}, setup.cfg asks for {requirement.specifier}."
