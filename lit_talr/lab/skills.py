"""General abilities made by code, to be kept while a domain is learned; needs no download.

A row of the skill ``formats``:

    system     Reply with {"answer": "..."}
    user       Largest of 12, 40, 7.
    assistant  {"answer": "40"}

Licence: Apache-2.0, as this package's. The rows are the same on every machine.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.domains.base import DomainDataModule
from lit_talr.lab.clinic import SIDES, Target, side_of, worked_case
from lit_talr.lab.clinic_notes import draw_patient
from lit_talr.lab.skill_items import SKILLS, draw_calculator
from lit_talr.metrics.exact_match import ExactMatch

PRACTICE: Mapping[str, Target] = {"worked": "cot", "direct": "label"}
"""Cases of calculators that are new in every row, worked or answered at once: nobody can know their rules, but what surrounds them can be learned."""


class Skills(DomainDataModule):
    """General abilities made by code, each with one right answer: arithmetic, strings, lookup, sorting, units, facts, formats, rules, notes.

    ``worked`` and ``direct`` are practice for a starting model: cases like those of ``Clinic``, of a calculator that is another one in every row, with
    worked explanations and with answers alone. What is asked in validation and test is never asked in training: other numbers, letters, tables, rules
    and notes, or, of what is known by heart (products, units, facts), another wording.

    Args:
        tokenizer: Folder or hub name; on the command line it is that of the model.
        tokenizer_revision: Commit, tag or branch of a hub tokenizer; likewise.
        encoding: How examples become tokens.
        batching: How examples become optimizer steps.
        skills: Of which skills, and with which share in the rows (any positive numbers).
        train_size: Rows for training, at least 1.
        val_size: Rows for validation, at least 1.
        test_size: Rows for testing, at least 1.
        seed: Which rows training has, at least 0; validation and test are the same for every seed.

    Raises:
        ValueError: For a skill that does not exist, a share, a size or a seed out of range.
    """

    source_name = "Skills (made by code)"
    license = "Apache-2.0 (made by this package)"

    def __init__(
        self,
        tokenizer: str,
        tokenizer_revision: str | None = None,
        encoding: Encoding = Encoding(),
        batching: Batching = Batching(),
        skills: Mapping[str, float] = dict.fromkeys(SKILLS, 1.0),
        train_size: int = 4096,
        val_size: int = 64,
        test_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(tokenizer, tokenizer_revision, encoding, batching)
        known = [*SKILLS, *PRACTICE]
        if not skills or not set(skills) <= set(known) or min(skills.values()) <= 0:
            raise ValueError(f"`skills` must give positive shares to some of {', '.join(known)}, got {dict(skills)}.")
        for name, size in (("train_size", train_size), ("val_size", val_size), ("test_size", test_size)):
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        if seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {seed}.")
        self.skills = dict(skills)
        self.sizes: Mapping[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self.seed = seed

    def metric(self) -> ExactMatch:
        return ExactMatch()

    def examples(self, split: Split) -> Sequence[Example]:
        return list(islice(self.draw_examples(split), self.sizes[split]))

    def draw_examples(self, split: Split) -> Iterator[Example]:
        """All rows of a split, without end; a larger size appends rows and changes none."""
        draw, row = Random(f"{self.seed if split == 'train' else 0} {split} {' '.join(self.skills)}"), 0
        names, shares = list(self.skills), list(self.skills.values())
        while True:
            (name,) = draw.choices(names, shares)
            where = f"Skills {split}, row {row}"
            while (example := practice(name, split, where, draw) if name in PRACTICE else item(name, split, where, draw)) is None:
                pass
            yield example
            row += 1


def item(name: str, split: Split, where: str, draw: Random) -> Example | None:
    """A question of a skill; none, if the one that was drawn is of another side."""
    key, prompt, answer, system = SKILLS[name](draw)
    if SIDES[hashlib.sha256(f"{name} {key}".encode()).digest()[0] % len(SIDES)] != split:
        return None
    return Example.from_prompt(prompt, answer, system, {"where": where, "skill": name, "answer": answer})


def practice(name: str, split: Split, where: str, draw: Random) -> Example | None:
    """A case of a calculator that is made for it."""
    calculator = draw_calculator(draw)
    patient = draw_patient(calculator.reads, draw)
    if side_of(patient) != split:
        return None
    example = worked_case(calculator, patient, PRACTICE[name], where, draw)
    answer = example.messages[-1]["content"]
    return Example(example.messages, example.supervised, {"where": where, "skill": name, "answer": answer, "value": json.loads(answer)["answer"]})
