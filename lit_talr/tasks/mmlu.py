"""Splits of MMLU, which lie in one file."""

from datasets import Dataset


def test_rows(rows: Dataset) -> Dataset:
    """Rows of the questions that are asked."""
    return rows.filter(lambda split: split == "test", input_columns="split", keep_in_memory=True)


def dev_rows(rows: Dataset) -> Dataset:
    """Rows of the examples before a question."""
    return rows.filter(lambda split: split == "dev", input_columns="split", keep_in_memory=True)
