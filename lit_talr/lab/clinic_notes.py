"""Notes about invented patients: their values, and the sentences that state them. None of it is medicine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

VALUES: Mapping[str, range] = {
    "age": range(22, 86, 8),
    "pulse": range(50, 130, 10),
    "breathing": range(10, 26, 2),
    "temperature": range(35, 42),
    "weight": range(45, 105, 10),
    "systolic": range(100, 180, 10),
    "diastolic": range(50, 100, 10),
    "lumin": range(1, 7),
    "tarsol": range(1, 7),
    "brevin": range(1, 9),
}
"""Ranges of measured values; the last three are laboratory values that do not exist."""
UNITS: Mapping[str, str] = {
    "age": "years",
    "pulse": "bpm",
    "breathing": "rpm",
    "temperature": "C",
    "weight": "kg",
    "systolic": "mm",
    "diastolic": "mm",
    "lumin": "lu",
    "tarsol": "ts",
    "brevin": "bv",
}
FINDINGS = ("cough", "chills", "rash", "swelling", "nausea", "tremor")
"""Findings, each present or absent."""

WOMEN = ("Mara", "Ilva", "Senna", "Orla", "Tilde", "Wenna", "Brisa", "Kaia")
MEN = ("Joren", "Tomas", "Evrin", "Palo", "Hanno", "Lukan", "Miro", "Sten")
COMPLAINTS = ("headache", "fatigue", "earache", "insomnia", "heartburn", "hiccups", "itching", "cramps")

OPENINGS = (
    "{name}, a {sex} of {age}, has {complaint}.",
    "{name} is a {sex} of {age} with {complaint}.",
    "{name}, {age}, a {sex}, came with {complaint}.",
    "A {sex} of {age}, {name}, reports {complaint}.",
)
MEASURED: Mapping[tuple[str, ...], Sequence[str]] = {
    ("pulse",): ("Pulse {pulse}.", "The pulse is {pulse}.", "We count a pulse of {pulse}."),
    ("breathing",): ("Breathing {breathing}.", "The breathing rate is {breathing}.", "There is breathing at {breathing}."),
    ("temperature",): ("Temperature {temperature}.", "The temperature is {temperature}.", "The thermometer shows {temperature}."),
    ("weight",): ("Weight {weight}.", "The weight is {weight}.", "On the scales: {weight}."),
    ("systolic", "diastolic"): ("Pressure {systolic} over {diastolic}.", "The pressure is {systolic}, then {diastolic}.", "Cuff: {systolic} and {diastolic}."),
    ("lumin",): ("Lumin {lumin}.", "The lumin is {lumin}.", "Lumin came back at {lumin}."),
    ("tarsol",): ("Tarsol {tarsol}.", "The tarsol is {tarsol}.", "Tarsol came back at {tarsol}."),
    ("brevin",): ("Brevin {brevin}.", "The brevin is {brevin}.", "Brevin came back at {brevin}."),
}
"""Values that stand in one sentence, and the sentences."""
PRESENT = ("There is {present}.", "{pronoun} has {present}.", "Seen: {present}.")
ABSENT = ("There is {absent}.", "{pronoun} has {absent}.", "Otherwise {absent}.")
COMPARED = (("at least", "below"), ("reaches", "misses"), ("not below", "under"))
"""Wordings of an explanation for a value that reaches a limit, and for one that does not."""
JOINTS = (": ", " gives ", " counts ")
"""Wordings between a fact and its points."""


@dataclass(frozen=True)
class Patient:
    """The content of one note: exactly the values that it states; a finding is 1 where it is present and 0 where it is absent."""

    name: str
    sex: str
    complaint: str
    values: Mapping[str, int]


def draw_patient(reads: Sequence[str], draw: Random) -> Patient:
    """Draws a patient whose note states the values that are needed, a few others, and perhaps other findings."""
    needed = [names for names in MEASURED if set(names) & set(reads)]
    others = draw.sample([names for names in MEASURED if names not in needed], draw.randint(2, 4))
    measured = ["age", *(name for names in MEASURED if names in needed or names in others for name in names)]
    findings = [finding for finding in FINDINGS if finding in reads or draw.random() < 0.3]
    values = {name: draw.choice(VALUES[name]) for name in measured} | {finding: draw.randint(0, 1) for finding in findings}
    sex = draw.choice(("woman", "man"))
    return Patient(draw.choice(WOMEN if sex == "woman" else MEN), sex, draw.choice(COMPLAINTS), values)


def write_note(patient: Patient, draw: Random) -> str:
    """Writes the opening, then every other fact in a random order and wording."""
    values, sentences = patient.values, [draw.choice(templates) for names, templates in MEASURED.items() if names[0] in patient.values]
    present = [finding for finding in FINDINGS if values.get(finding) == 1]
    absent = [f"no {finding}" for finding in FINDINGS if values.get(finding) == 0]
    sentences += [draw.choice(templates) for findings, templates in ((present, PRESENT), (absent, ABSENT)) if findings]
    for part in (present, absent, sentences):
        draw.shuffle(part)
    fill = {name: quantity(name, value) for name, value in values.items() if name in UNITS} | {
        "name": patient.name,
        "sex": patient.sex,
        "complaint": patient.complaint,
        "pronoun": "She" if patient.sex == "woman" else "He",
    }
    fill |= {"present": listed(present), "absent": listed(absent)}
    return " ".join([draw.choice(OPENINGS), *sentences]).format_map(fill)


def quantity(name: str, value: int) -> str:
    """Writes a value with its unit."""
    return f"{value} {UNITS[name]}"


def listed(words: Sequence[str]) -> str:
    """Joins words as in "a, b and c"."""
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + list(words[-1:]))
