"""General abilities made by code, which fine-tuning on a domain should not lose; needs no download.

A row of the skill ``formats``:

    system     Reply with {"answer": "..."}
    user       Largest of 12, 40, 7.
    assistant  {"answer": "40"}

Licence: Apache-2.0, as this package's. The rows are the same on every machine.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from lit_talr.data.example import Example, Split
from lit_talr.lab.clinic import SYSTEM, USER, Target, split_of, worked_case
from lit_talr.lab.clinic_notes import draw_patient
from lit_talr.lab.made_by_code import MadeByCode, split_by_hash
from lit_talr.lab.skill_items import SKILLS, draw_calculator
from lit_talr.metrics.exact_match import ExactMatch

PRACTICE: Mapping[str, Target] = {"worked": "cot", "direct": "label"}
"""Cases of calculators that are new in every row, worked or answered at once: their rules cannot be known, but the form of the cases can be learned."""


@dataclass(eq=False, repr=False)
class Skills(MadeByCode):
    """General abilities made by code, each with one right answer: arithmetic, strings, lookup, sorting, units, facts, formats, rules, notes.

    ``worked`` and ``direct`` are practice for a base model: cases like those of ``Clinic``, of a calculator that is another one in every row, with
    worked explanations or with answers alone. Questions of validation and test never occur in training: they have other numbers, letters, tables, rules
    and notes, or, where the answer is known by heart (products, units, facts), another wording.

    Args:
        skills: The skills, each with its share in the rows (any positive numbers).

    Raises:
        ValueError: For a skill that does not exist, and for a share, a size or a seed out of range.
    """

    skills: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SKILLS, 1.0))
    source_name = "Skills (made by code)"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [*SKILLS, *PRACTICE]
        if not self.skills or not set(self.skills) <= set(known) or min(self.skills.values()) <= 0:
            raise ValueError(f"`skills` must give positive shares to some of {', '.join(known)}, got {dict(self.skills)}.")

    def metric(self) -> ExactMatch:
        return ExactMatch()

    def draw_examples(self, split: Split) -> Iterator[Example]:
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
    """Draws a question of a skill; none if it belongs to another split."""
    key, prompt, answer, system = SKILLS[name](draw)
    if split_by_hash(f"{name} {key}") != split:
        return None
    return Example.from_prompt(prompt, answer, system, {"where": where, "skill": name, "answer": answer})


def practice(name: str, split: Split, where: str, draw: Random) -> Example | None:
    """Draws a case of a calculator that is made for it; none if it belongs to another split."""
    calculator = draw_calculator(draw)
    patient = draw_patient(calculator.reads, draw)
    if split_of(patient) != split:
        return None
    example = worked_case(calculator, patient, PRACTICE[name], where, draw, {"system": SYSTEM[PRACTICE[name]], "user": USER})
    answer = example.messages[-1]["content"]
    return Example(example.messages, example.supervised, {"where": where, "skill": name, "answer": answer, "value": json.loads(answer)["answer"]})
