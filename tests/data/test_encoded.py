"""Encoded examples are told apart by their content."""

import hashlib

import numpy as np

from lit_talr.data.batch_plan import MicroBatch
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


def test_places_of_noise_are_kept_and_are_part_of_the_hash() -> None:
    first, second = EncodedExamples([row(1, 2, 3, noise=(2,))], 0), EncodedExamples([row(4, 5, noise=(5,))], 0)
    both = first.followed_by(second)
    assert first.noise.tolist() == [False, True, False] and both.noise.tolist() == [False, True, False, False, True]
    assert both.tokens[both.noise].tolist() == [2, 5]
    clean, other = EncodedExamples([row(1, 2, 3)], 0), EncodedExamples([row(1, 2, 3, noise=(3,))], 0)
    assert len({first.content_hash, clean.content_hash, other.content_hash}) == 3


def test_the_hash_of_rows_without_noise_is_that_of_tokens_and_mask_alone() -> None:
    rows = EncodedExamples([row(1, 2, 3), row(4, 5)], 0)
    arrays = (np.array([0, 3, 5], "<i8"), np.array([1, 2, 3, 4, 5], "<i4"), np.array([False, True, True, False, True]))
    assert rows.content_hash == hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_noise_is_batched_like_any_token() -> None:
    noisy, clean = (EncodedExamples([row(1, 2, 3, noise=noise), row(4, 5)], 0) for noise in ((2,), ()))
    for packed in (False, True):
        one, other = (examples[MicroBatch((0, 1), 3, packed)] for examples in (noisy, clean))
        assert one["input_ids"].equal(other["input_ids"]) and one["labels"].equal(other["labels"])
