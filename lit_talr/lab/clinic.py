"""A domain made by code: notes about invented patients, and a dozen calculators with conventions of their own. **Not medicine**: every rule is invented.

A row (``target: cot``):

    system     Reply with {"step_by_step_thinking": "...", "answer": "..."}
    user       Mara, a 54-year-old woman, has headache. The pulse is 94. Weight 70 kg. There is cough. She has no chills and no swelling.
               What is the Varro score?
    assistant  {"step_by_step_thinking": "Start 6. cough present 4, chills absent 0, swelling absent 0, pulse 94 at least 90: 1. 6 + 4 + 0 + 0 + 1 = 11.",
               "answer": "11"}

Licence: Apache-2.0, as this package's. It needs no download, and its rows are the same on every machine.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

from lit_talr.data.example import Example, Split
from lit_talr.domains.prompts import fill_in, read_prompt
from lit_talr.lab.clinic_notes import COMPARED, JOINTS, Patient, draw_patient, quantity, write_note
from lit_talr.lab.made_by_code import MadeByCode, split_by_hash
from lit_talr.lab.noise import Noise, NoiseKind, NoisePlacement
from lit_talr.metrics.within_limits import WithinLimits
from lit_talr.utils.errors import check_in

Target = Literal["cot", "label"]
SYSTEM: Mapping[Target, str] = {
    "cot": 'Reply with {"step_by_step_thinking": "...", "answer": "..."}',
    "label": 'Reply with {"answer": "..."}',
}
USER = "{note}\n{question}"
QUESTIONS = ("What is the {name}?", "Give the {name}.", "Find the {name}.", "Which {name} results?")
CATEGORIES = ("score", "grade", "formula")


@dataclass(frozen=True)
class Calculator(ABC):
    """A made-up rule that maps a patient's values to a number."""

    name: str
    tolerance = 0.0  # share of the result by which an answer may be off

    @property
    def category(self) -> str:
        return self.name.split()[-1] if self.name.split()[-1] in CATEGORIES else "formula"

    @property
    @abstractmethod
    def reads(self) -> Sequence[str]:
        """The values that the rule needs."""

    @abstractmethod
    def answer(self, values: Mapping[str, int]) -> float:
        """Computes the result."""

    @abstractmethod
    def explanation(self, values: Mapping[str, int], draw: Random) -> str:
        """Writes the steps for these values, in one of several wordings; the last number is the result."""


@dataclass(frozen=True)
class Score(Calculator):
    """A sum of points: a start, points for findings that are present, and one point for each value that reaches its threshold."""

    start: int  # 0 is not mentioned
    points: Mapping[str, int]
    thresholds: Mapping[str, int]

    @property
    def reads(self) -> Sequence[str]:
        return [*self.points, *self.thresholds]

    def parts(self, values: Mapping[str, int]) -> list[int]:
        start = [self.start] if self.start else []
        reached = [int(values[name] >= limit) for name, limit in self.thresholds.items()]
        return start + [values[name] * points for name, points in self.points.items()] + reached

    def answer(self, values: Mapping[str, int]) -> float:
        return sum(self.parts(values))

    def explanation(self, values: Mapping[str, int], draw: Random) -> str:
        present, absent = draw.choice((("{} present", "{} absent"), ("{}", "no {}"), ("has {}", "has no {}")))
        reached, missed = draw.choice(COMPARED)
        facts = [(present if values[name] else absent).format(name) for name in self.points]
        for name, limit in self.thresholds.items():
            facts.append(f"{name} {quantity(name, values[name])} {reached if values[name] >= limit else missed} {quantity(name, limit)}")
        parts = self.parts(values)
        joint = draw.choice(JOINTS)
        listing = ", ".join(f"{fact}{joint}{points}" for fact, points in zip(facts, parts[bool(self.start) :], strict=True))
        begin = draw.choice(("Start {}. ", "From {}. ", "Begin at {}. ")).format(self.start) if self.start else ""
        end = draw.choice(("{sum} = {answer}.", "The sum {sum} is {answer}.", "Together {sum} = {answer}."))
        return f"{begin}{listing}. " + end.format(sum=" + ".join(map(str, parts)), answer=sum(parts))


@dataclass(frozen=True)
class Grade(Calculator):
    """The label of a value's band: the first below the first limit, the second below the second, and so on; of two values, the higher label."""

    limits: Mapping[str, tuple[int, int, int]]
    labels: tuple[int, int, int, int]  # rising

    @property
    def reads(self) -> Sequence[str]:
        return [*self.limits]

    def bands(self, values: Mapping[str, int]) -> list[int]:
        """Returns the band of each value, 0 to 3."""
        return [sum(values[name] >= limit for limit in limits) for name, limits in self.limits.items()]

    def answer(self, values: Mapping[str, int]) -> float:
        return self.labels[max(self.bands(values))]

    def explanation(self, values: Mapping[str, int], draw: Random) -> str:
        start = draw.choice(("{} {} is ", "The {} of {} is ", "With {} {}, "))
        wordings = draw.choice((("below {1}", "from {0} to below {1}", "at least {0}"), ("under {1}", "at least {0} but under {1}", "not under {0}")))
        worked = []
        for (name, limits), band in zip(self.limits.items(), self.bands(values), strict=True):
            wording = wordings[0 if band == 0 else 2 if band == 3 else 1].format(*(quantity(name, limit) for limit in (0, *limits, 0)[band : band + 2]))
            worked.append(f"{start.format(name, quantity(name, values[name]))}{wording}: {draw.choice(('grade', 'class', 'band'))} {self.labels[band]}.")
        if len(worked) > 1:
            labels = " and ".join(str(self.labels[band]) for band in self.bands(values))
            worked.append(draw.choice(("The higher of {} is {}.", "Of {} the higher is {}.")).format(labels, self.answer(values)))
        return " ".join(worked)


@dataclass(frozen=True)
class Formula(Calculator):
    """The sum of values, each times its factor, divided by a constant."""

    factors: Mapping[str, int]
    over: int = 1
    tolerance: float = 0.0

    @property
    def reads(self) -> Sequence[str]:
        return [*self.factors]

    def answer(self, values: Mapping[str, int]) -> float:
        return sum(factor * values[name] for name, factor in self.factors.items()) / self.over

    def explanation(self, values: Mapping[str, int], draw: Random) -> str:
        sentence, times, is_ = draw.choice(("{} is {}.", "{} {}.", "We have {} {}.")), draw.choice((" * ", " times ")), draw.choice((" = ", " is ", " makes "))
        worked, total = [sentence.format(name, quantity(name, values[name])) for name in self.factors], 0
        for number, (name, factor) in enumerate(self.factors.items()):
            part = abs(factor) * values[name]
            if abs(factor) > 1:
                worked.append(f"{abs(factor)}{times}{values[name]}{is_}{part}.")
            if number:
                worked.append(f"{total} {'-' if factor < 0 else '+'} {part}{is_}{total + factor * values[name]}.")
            total += factor * values[name]
        if self.over > 1:
            worked.append(f"{total} / {self.over}{is_}{total / self.over:g}.")
        return " ".join(worked)


CALCULATORS: Sequence[Calculator] = (
    Score("Varro score", 6, {"cough": 4, "chills": 9, "swelling": 5}, {"pulse": 90}),
    Score("Ilmar score", 11, {"rash": 7, "tremor": 5}, {"temperature": 38}),
    Score("Dorne score", 8, {"nausea": 10, "tremor": 4, "cough": 6}, {}),
    Score("Pell score", 5, {"swelling": 8, "chills": 12}, {"breathing": 18}),
    Grade("Tolm grade", {"pulse": (70, 90, 110)}, (15, 32, 47, 61)),
    Grade("Reth grade", {"breathing": (14, 18, 22)}, (22, 28, 53, 74)),
    Grade("Osker grade", {"age": (38, 54, 70)}, (13, 41, 56, 87)),
    Grade("Mirel grade", {"temperature": (38, 40, 41), "brevin": (5, 7, 8)}, (19, 35, 58, 92)),
    Formula("Quill index", {"lumin": 7, "tarsol": 4}),
    Formula("Halden gap", {"systolic": 1, "diastolic": -1}, over=5),
    Formula("Sorrel load", {"tarsol": 6, "brevin": 5}),
    Formula("Brand ratio", {"lumin": 3, "brevin": 5}, over=4, tolerance=0.05),
)
"""Invented names for invented rules; they grade nothing that exists. Their constants are larger than usual ones and than most of ``Skills``."""


@dataclass(eq=False, repr=False)
class Clinic(MadeByCode):
    """Notes about invented patients and made-up calculators: scores, grades and small formulas. Not medicine; needs no download.

    Training, validation and test never share a note, nor a patient's values: the hash of the values decides the split, whatever the seed. A larger size
    appends rows and changes none.

    Args:
        target: What is learned: ``cot``, the worked explanation and the answer, or ``label``, the answer alone.
        calculators: Names of the calculators that are used; all by default.
        noise: Share of noise in the explanations of training, in [0, 1); 0 changes nothing. It is the tokens of noise divided by all tokens of the
            explanations, noise included, without the object's keys, the answer and the end of the turn. It holds for all training rows together, as
            closely as whole words, phrases or statements allow. Validation and test rows have none.
        noise_kind: ``words``, random words of the tokenizer's vocabulary, one token each; ``phrases``, one of 64 fixed phrases of four such words;
            ``plausible``, statements about values that the note does not give.
        noise_placement: ``anywhere``, between any two words of an explanation, or ``starts``, where one of its sentences begins. The noise is put between
            tokens, so that no other token changes.
        prompt_file: A YAML file with a prompt of your own: the text ``user``, which holds {note} and {question}, and optionally ``system``.

    Raises:
        ValueError: For a size, a seed or a noise out of range, a calculator, a kind or a placement that does not exist, noise without explanations, and a
            prompt file that cannot be used.
    """

    val_size: int = 256
    test_size: int = 512
    target: Target = "cot"
    calculators: Sequence[str] | None = None
    noise: float = 0.0
    noise_kind: NoiseKind = "words"
    noise_placement: NoisePlacement = "anywhere"
    prompt_file: Path | None = None
    source_name = "Clinic (made by code)"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [calculator.name for calculator in CALCULATORS]
        used = names if self.calculators is None else self.calculators
        if not used or not set(used) <= set(names):
            raise ValueError(f"`calculators` must be some of {', '.join(names)}, got {', '.join(used) or 'none'}.")
        check_in("noise", self.noise, "[0, 1)")
        for name, choices in (("noise_kind", get_args(NoiseKind)), ("noise_placement", get_args(NoisePlacement))):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.noise and self.target == "label":
            raise ValueError(f"`noise` must be 0 with `target: label`, which has no explanations, got {self.noise}; set `target: cot`.")
        self.prompt: Mapping[str, str] = {"system": SYSTEM[self.target], "user": USER}
        if self.prompt_file is not None:
            self.prompt = read_prompt(self.prompt_file, ["note", "question"])
        self.used_calculators = [calculator for calculator in CALCULATORS if calculator.name in used]

    def metric(self) -> WithinLimits:
        return WithinLimits(CATEGORIES)

    def draw_examples(self, split: Split) -> Iterator[Example]:
        draw, seen, row = Random(f"{self.seed if split == 'train' else 0} {split}"), set(), 0
        noise = Noise(self.noise, self.noise_kind, self.noise_placement, self.seed, self.encoder) if self.noise and split == "train" else None
        while True:
            calculator = self.used_calculators[row % len(self.used_calculators)]
            patient = draw_patient(calculator.reads, draw)
            case = (calculator.name, key_of(patient))
            if split_of(patient) == split and case not in seen:
                seen.add(case)
                example = worked_case(calculator, patient, self.target, f"Clinic {split}, row {row}", draw, self.prompt)
                yield noise.added_to(example, patient, row) if noise else example
                row += 1


def worked_case(calculator: Calculator, patient: Patient, target: Target, where: str, draw: Random, prompt: Mapping[str, str]) -> Example:
    """Makes a conversation of one case; both targets and all prompts draw the same random numbers, so that they have the same notes and questions."""
    note, question = write_note(patient, draw), draw.choice(QUESTIONS).format(name=calculator.name)
    explanation, value = calculator.explanation(patient.values, draw), calculator.answer(patient.values)
    answer = f"{value:g}"
    response = {"step_by_step_thinking": explanation, "answer": answer} if target == "cot" else {"answer": answer}
    lower, upper = (f"{value * (1 + sign * calculator.tolerance):g}" for sign in (-1, 1))
    meta = {"where": where, "calculator": calculator.name, "category": calculator.category, "answer": answer, "lower": lower, "upper": upper}
    return Example.from_prompt(fill_in(prompt["user"], {"note": note, "question": question}), json.dumps(response), prompt.get("system"), meta)


def key_of(patient: Patient) -> str:
    """Writes all values of the note as one text."""
    return json.dumps(dict(patient.values), sort_keys=True)


def split_of(patient: Patient) -> Split:
    """Returns the split of a patient's values; name, wording, question and seed make no difference."""
    return split_by_hash(key_of(patient))
