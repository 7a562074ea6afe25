"""Answers, judge_responses and kept: what the callbacks that score share."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from lit_talr.data.example import Example
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.generation import Response


class LogsDrop(Callback):
    """Logs ``general/drop`` and ``general/drop_se``, at some or all epochs of a fit."""


class LogsDrift(Callback):
    """Logs ``drift/kl`` and ``drift/kl_se``, before training and at some steps of a fit."""

    measured_step: int | None = None
    """How many optimizer steps the weights had made that were measured last."""


def judge_responses(metric: DomainMetric, ids: Sequence[int], examples: Sequence[Example], answers: Sequence[Response]) -> list[dict[str, Any]]:
    """A row for each answer, with what it was read as and whether it is right; the metric counts them."""
    metric.update([answer.text for answer in answers], examples)
    return [
        {"id": index, "row": example.meta.get("where"), **answer._asdict(), "truth": example.meta.get("answer"), **metric.judge(answer.text, example)}
        for index, example, answer in zip(ids, examples, answers, strict=True)
    ]


def gather_rows(rows: list[dict[str, Any]], trainer: Trainer) -> list[dict[str, Any]]:
    """In the order of their numbers, on every rank. Collective."""
    parts = [rows]
    if dist.is_available() and dist.is_initialized():
        parts = [[] for _ in range(trainer.world_size)]
        dist.all_gather_object(parts, rows)
    return sorted((row for part in parts for row in part), key=lambda row: row["id"])


def responses_file(trainer: Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / "answers" / f"{name}.jsonl"


def paired_error(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> float:
    """Standard error of the difference of two means over suites of the share of right answers, from two rows for each item."""
    lost: dict[str, list[float]] = {}
    for row, other in pairs:
        lost.setdefault(row["suite"], []).append(float(row["correct"]) - float(other["correct"]))
    if not lost:
        return math.nan
    variances = [float(np.var(items, ddof=1)) / len(items) if len(items) > 1 else math.nan for items in lost.values()]
    return math.sqrt(sum(variances)) / len(variances)
