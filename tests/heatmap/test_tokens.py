import pytest

from lit_talr.heatmap.tokens import Piece, pieces, visible
from tests.helpers.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer("qwen2")


def ids(text: str) -> list[int]:
    return list(text.encode())


def test_each_token_has_its_text() -> None:
    assert [piece.text for piece in pieces(TOKENIZER, [*ids("a b"), 258])] == ["a", "␣", "b", "<|im_end|>"]


def test_a_character_of_several_tokens_stands_at_the_first() -> None:
    found = pieces(TOKENIZER, ids("é😀x"))
    assert found[:2] == [Piece("é", 1, 2, "é"), Piece("2/2", 2, 2, "é")]
    assert [piece.text for piece in found[2:]] == ["😀", "2/4", "3/4", "4/4", "x"] and found[-1].parts == 1


def test_a_token_that_ends_inside_a_character() -> None:
    """The alphabet of byte-level tokenizers writes the bytes of é, C3 and A9, as Ã and ©."""
    merged = byte_tokenizer("qwen2", merges=[("a", "Ã"), ("©", "b")])
    names = merged.convert_tokens_to_ids(["aÃ", "©b"])
    assert [piece.text for piece in pieces(merged, names)] == ["aéb", "2/2"]


@pytest.mark.parametrize("tail", [ids("ok"), ids("é"), []])
def test_bytes_that_nothing_completes_stand_alone(tail: list[int]) -> None:
    found = pieces(TOKENIZER, [0xF0, *tail])
    assert found[0].parts == 1 and found[0].text == "\ufffd" and len(found) == 1 + len(tail)


def test_a_replacement_character_of_the_text_is_not_taken_for_an_unfinished_one() -> None:
    found = pieces(TOKENIZER, ids("\ufffdab"))
    assert [piece.text for piece in found[-2:]] == ["a", "b"] and len(found) == 5


def test_the_pieces_are_the_text() -> None:
    text = "Zoë: 1 < 2 &amp; “so”, naïve 😀😀."
    assert "".join(piece.whole for piece in pieces(TOKENIZER, ids(text)) if piece.part <= 1).replace("␣", " ") == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n", "⏎\n"),
        (" a\n\n", " a⏎\n⏎\n"),
        ("\t", "⇥"),
        ("  ", "␣␣"),
        (" a", " a"),
        ("\u00a0", "U+00A0"),
        ("\u202e", "U+202E"),
        ("\x1b[0m", "\\x1b[0m"),
        ("\r\n", "␍⏎\n"),
        ("\u0301", "◌\u0301"),
        ("", "∅"),
        ("<b>", "<b>"),
    ],
)
def test_nothing_is_invisible(text: str, shown: str) -> None:
    assert visible(text) == shown
