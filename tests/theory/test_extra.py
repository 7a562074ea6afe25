import sys

import pytest

from lit_talr.theory import compress, decompress
from tests.helpers.tiny import byte_tokenizer
from tests.theory.tiny_models import small


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    sentence = r"^The arithmetic coder needs constriction, which is not installed: pip install lit_talr\[theory\]\.$"
    with pytest.raises(ModuleNotFoundError, match=sentence):
        compress(small(300), byte_tokenizer(), "a")
    with pytest.raises(ModuleNotFoundError, match=sentence):
        decompress(small(300), byte_tokenizer(), b"")
