"""Invented rows in the columns of MedCalc-Bench."""

from pathlib import Path
from typing import Any

import datasets


def medcalc_row(number: int, note: str | None = None) -> dict[str, str]:
    """A mean arterial pressure; every column a text, as published."""
    systolic, diastolic = 100 + number % 50, 60 + number % 30
    answer = round(diastolic * 2 / 3 + systolic / 3, 3)
    return {
        "Row Number": str(number),
        "Calculator ID": "5",
        "Calculator Name": "Mean Arterial Pressure (MAP)",
        "Category": "physical",
        "Output Type": "decimal",
        "Note ID": f"invented-{number}",
        "Note Type": "Synthetic",
        "Patient Note": note or f"Patient {number} has a blood pressure of {systolic}/{diastolic} mm Hg.",
        "Question": "What is the mean arterial pressure in mm Hg?",
        "Relevant Entities": "{}",
        "Ground Truth Answer": str(answer),
        "Lower Limit": str(answer * 0.95),
        "Upper Limit": str(answer * 1.05),
        "Ground Truth Explanation": f"2/3 * {diastolic} + 1/3 * {systolic} = {answer}.",
    }


def write_medcalc(folder: Path, num_train: int = 24, num_test: int = 5, **changed: Any) -> list[str]:
    """Files of rows, of which one training note also stands in the test set; gives the options that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    test = [medcalc_row(1000 + n) for n in range(num_test)]
    train = [medcalc_row(n) for n in range(num_train)]
    train[1] = medcalc_row(1, note=test[0]["Patient Note"])
    train[2].update(changed)
    datasets.Dataset.from_list(train).to_parquet(folder / "train.parquet")
    datasets.Dataset.from_list(test).to_parquet(folder / "test.parquet")
    return ["--data.train", str(folder / "train.parquet"), "--data.test", str(folder / "test.parquet")]
