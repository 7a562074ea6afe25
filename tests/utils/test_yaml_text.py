"""A key that stands twice is an error, at any level."""

import pytest
import yaml

from lit_talr.utils.yaml_text import parse_yaml, why_not_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer:\n  a: 1\nmodel: 2\ntrainer:\n  b: 2\n", "the key `trainer` stands in line 1 and again in line 4; join the two"),
        ("a:\n- b:\n    c: 1\n    c: 1\n", "the key `c` stands in line 3 and again in line 4"),
        ("{a: 1, 'a': 2}", "the key `a` stands in line 1 and again in line 1"),
    ],
)
def test_a_repeated_key_is_named_with_its_lines(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_everything_else_is_as_yaml_has_it() -> None:
    text = "one: &one {a: 1, b: 2}\ntwo:\n  <<: *one\n  b: 3\nthree: [*one, *one]\n"
    assert parse_yaml(text) == yaml.safe_load(text) and parse_yaml(text)["two"] == {"a": 1, "b": 3}


def test_text_of_another_encoding_is_said_to_be_so() -> None:
    with pytest.raises(UnicodeDecodeError) as error:
        "# caf\u00e9".encode("latin-1").decode()
    assert why_not_yaml(error.value) == "is not UTF-8 (unexpected end of data at byte 5); save the file as UTF-8."
