"""What docs/security.md says of templates and configurations."""

from pathlib import Path

import pytest

from lit_talr.cli.parsers import read_config
from lit_talr.data.chat_template import ChatTemplate
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Message
from tests.helpers.tiny import byte_tokenizer

ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('{path}', 'w') }}",
    "{{ cycler.__init__.__globals__.os.system('touch {path}') }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_reaches_nothing_outside(tmp_path: Path, escape: str) -> None:
    tokenizer = byte_tokenizer("qwen2", escape.replace("{path}", str(tmp_path / "made")))
    try:
        text = ChatTemplate(tokenizer, Encoding()).render([Message(role="user", content="a")], prompt=True)
    except ValueError:
        text = ""
    assert "class" not in text and "root:" not in text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.mkdir", "!!python/object/new:os.mkdir"])
def test_yaml_makes_no_objects_by_tags_of_its_own(tmp_path: Path, tag: str) -> None:
    (tmp_path / "config.yaml").write_text(f"trainer: {tag} ['{tmp_path / 'made'}']\n")
    with pytest.raises(ValueError, match="is not YAML"):
        read_config(tmp_path / "config.yaml")
    assert not (tmp_path / "made").exists()
