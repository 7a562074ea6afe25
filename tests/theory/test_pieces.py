from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_talr.theory.pieces import join_pieces, restorable, split_text
from tests.helpers.tiny import byte_tokenizer


def words() -> PreTrainedTokenizerFast:
    """Knows three words, and nothing of the rest."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "rose": 2, "is": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def lower_case() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def joined(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    pieces = split_text(text, tokenizer)
    ids, raw = [token for piece in pieces for token in piece.ids], b"".join(piece.raw for piece in pieces)
    return join_pieces([(len(piece.ids), len(piece.raw)) for piece in pieces], ids, raw, tokenizer)


def test_a_text_that_comes_back_is_one_piece() -> None:
    assert split_text("Zoë", byte_tokenizer()) == [([90, 111, 195, 171], b"")]
    assert split_text("", byte_tokenizer()) == []


def test_what_does_not_come_back_stays_bytes_and_the_rest_tokens() -> None:
    tokenizer = lower_case()
    assert restorable("A", tokenizer) is None and restorable("a", tokenizer) == [97]
    assert split_text("sixteen letters." + "SIXTEEN LETTERS." + "SIXTEEN AGAIN..." + "sixteen letters.", tokenizer) == [
        (list(b"sixteen letters."), b""),
        ([], b"SIXTEEN LETTERS.SIXTEEN AGAIN..."),
        (list(b"sixteen letters."), b""),
    ]


def test_every_text_is_restored_whatever_the_tokenizer_loses() -> None:
    for tokenizer in (byte_tokenizer(), byte_tokenizer("llama3"), words(), lower_case()):
        for text in ("a rose is a rose", "a  rose\r\nIS a röse \U0001f339", "<eos> <|eot_id|> <unk>", "\ud800", "a" * 40 + "\udfff\ud800" + "b" * 40, "\0\x7f"):
            assert joined(text, tokenizer) == text
