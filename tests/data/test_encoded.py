"""Encoded examples are told apart by their content."""

import numpy as np

from lit_talr.data.encoded import EncodedExamples
from lit_talr.data.encoder import Encoded


def row(*tokens: int, first: int = 1, noise: tuple[int, ...] = ()) -> Encoded:
    return Encoded(np.array(tokens, dtype=np.int32), np.arange(len(tokens)) >= first, 0, np.isin(tokens, noise))


def test_the_hash_is_that_of_the_rows_in_their_order() -> None:
    rows = [row(1, 2, 3), row(4, 5)]
    own = EncodedExamples(rows, 0).content_hash
    assert own == EncodedExamples([row(1, 2, 3), row(4, 5)], pad_token_id=9).content_hash
    others = [rows[::-1], [row(1, 2), row(3, 4, 5)], [row(1, 2, 3, first=2), row(4, 5)], [row(1, 2, 4), row(4, 5)], rows[:1]]
    assert len({own, *(EncodedExamples(other, 0).content_hash for other in others)}) == 6


def test_a_concatenation_has_its_own_hash() -> None:
    first, second = EncodedExamples([row(1, 2, 3)], 0), EncodedExamples([row(4, 5)], 0)
    assert first.content_hash != first.followed_by(second).content_hash == EncodedExamples([row(1, 2, 3), row(4, 5)], 0).content_hash
