"""Noise for the worked explanations of ``Clinic``: texts that nothing in the row asks for, put between its tokens."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Literal

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.example import Example, Insertion
from lit_talr.data.insertions import Seams
from lit_talr.lab.clinic_notes import COMPARED, JOINTS, VALUES, Patient, quantity

NoiseKind = Literal["words", "phrases", "plausible"]
NoisePlacement = Literal["anywhere", "starts"]
NUM_PHRASES = 64
WORDS_OF_A_PHRASE = 4


class Noise:
    """Puts noise into one row after the other.

    A text stands between two tokens as ``ChatEncoder.tokenize_at`` tokenises it: with a space before it, and with one behind it where the token before has
    taken the space, as before numbers. What is drawn depends on the seed and the row's number alone, and how much of it is taken on the rows before too:
    so many tokens that those of all rows so far come nearest to the share. A larger share takes more of the same.

    Args:
        share: Tokens of noise divided by all tokens of the explanations, noise included, in (0, 1).
        kind: ``words``, ``phrases`` or ``plausible``, as in ``Clinic``.
        placement: ``anywhere`` or ``starts``, as in ``Clinic``.
        seed: Selects the noise.
        encoder: Tokenises the rows.

    Raises:
        ValueError: For a tokenizer with fewer than 64 words among its tokens.
    """

    def __init__(self, share: float, kind: NoiseKind, placement: NoisePlacement, seed: int, encoder: ChatEncoder) -> None:
        self.per_clean = share / (1 - share)
        self.kind, self.placement, self.seed, self.encoder = kind, placement, seed, encoder
        self.num_clean = self.num_noise = 0  # tokens of the explanations so far
        self.words, self.words_before_numbers = vocabulary_words(encoder)
        if len(self.words) < NUM_PHRASES:
            raise ValueError(f"`noise` needs a tokenizer with at least {NUM_PHRASES} words among its tokens, got {len(self.words)}; leave `noise` out.")
        ends = sorted({*self.words} & {*self.words_before_numbers}) or self.words
        draw = Random("phrases")
        self.phrases = [" ".join([*draw.sample(self.words, WORDS_OF_A_PHRASE - 1), draw.choice(ends)]) for _ in range(NUM_PHRASES)]

    def added_to(self, example: Example, patient: Patient, row: int) -> Example:
        """Returns the example with insertions into its explanation."""
        response = example.messages[-1]["content"]
        explanation = json.loads(response)["step_by_step_thinking"]
        seams, start = self.encoder.seams(response), response.index(explanation)
        end = start + len(explanation)
        places = self.places(seams, start, end)
        self.num_clean += sum(start <= begin < end for begin in seams.begins)
        draw, insertions = Random(f"{self.seed} noise {row}"), []
        while places:
            at = draw.choice(places)
            text = self.text(response[at - 1] == " ", patient, draw)
            size, missing = len(self.encoder.tokenize_at(seams, at, text)), self.per_clean * self.num_clean - self.num_noise
            if size >= 2 * missing:  # the share is nearer without it
                break
            insertions.append(Insertion(len(example.messages) - 1, at, text))
            self.num_noise += size
        return replace(example, insertions=insertions)

    def places(self, seams: Seams, start: int, end: int) -> Sequence[int]:
        """Returns the places between two words of an explanation, or at the beginnings of its sentences."""
        between = [at for at in seams.places() if start < at < end and " " in seams.text[at - 1 : at + 1]]
        if self.placement == "anywhere":
            return between
        return [at for at in seams.places() if at == start or (at in between and seams.text[:at].rstrip().endswith("."))]

    def text(self, space_behind: bool, patient: Patient, draw: Random) -> str:
        """Draws a text."""
        if self.kind == "words":
            text = draw.choice(self.words_before_numbers or self.words if space_behind else self.words)
        else:
            text = draw.choice(self.phrases) if self.kind == "phrases" else statement(patient, draw)
        return f" {text}{' ' * space_behind}"


def statement(patient: Patient, draw: Random) -> str:
    """Writes a step of a score about a value that the patient's note does not state, such as "pulse 90 bpm at least 80 bpm: 1."."""
    name = draw.choice([name for name in VALUES if name not in patient.values])
    value, limit = draw.choice(VALUES[name]), draw.choice(VALUES[name])
    reached, missed = draw.choice(COMPARED)
    return f"{name} {quantity(name, value)} {reached if value >= limit else missed} {quantity(name, limit)}{draw.choice(JOINTS)}{int(value >= limit)}."


def vocabulary_words(encoder: ChatEncoder) -> tuple[list[str], list[str]]:
    """Returns the words of at least three letters that are one token with the space before them, and those that are one with both spaces.

    Tokens that begin longer ones are left out, since most of them are no words.
    """
    tokens = range(len(encoder.tokenizer))
    texts = sorted(str(encoder.tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in tokens)
    words = [text for text in texts if re.fullmatch(" [A-Za-z]{3,} ?", text)]
    different = sorted({text.strip() for text in words})
    whole = {*different} - {text for text, longer in pairwise(different) if longer.startswith(text)}
    single = [text.strip() for text in words if not text.endswith(" ") and len(encoder.tokenize(text, start=False)) == 1]
    before_numbers = [text.strip() for text in words if text.endswith(" ") and len(encoder.tokenize(f"{text}0", start=False)) == 2]
    return [text for text in single if text in whole], [text for text in before_numbers if text in whole]
