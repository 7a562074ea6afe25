"""Where a step's loss or gradient is not finite, stops the run or skips the step; its examples go to a file."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lit_talr.domains.base import DomainDataModule
from lit_talr.losses.anchored import run_closure
from lit_talr.losses.base import TokenStats
from lit_talr.modeling.strategies import is_deepspeed
from lit_talr.utils.collectives import gather_lists, local, sum_over_ranks
from lit_talr.utils.errors import check_least
from lit_talr.utils.files import write_text

logger = logging.getLogger(__name__)
Action = Literal["stop", "skip"]
FILE = "non_finite.jsonl"
MANY_SCALED = 30
"""A scaler starts at 2^16 and halves its scale at each skipped step: after thirty, no smaller scale would help."""
MAX_CHARACTERS = 4000  # of an example's text in the file; more is cut out of its middle


@dataclass(frozen=True)
class NonFinite:
    """Handles optimizer steps whose loss or gradient is infinite or not a number.

    Their examples, with their texts, go to ``non_finite.jsonl`` of the run folder.

    Args:
        action: ``stop`` ends the run before the optimizer changes anything; ``skip`` leaves weights and optimizer as they are and continues.
        max_skipped: How many steps ``skip`` may skip in the whole run, at least 0; the next one ends it.

    Raises:
        ValueError: For a value out of range.
    """

    action: Action = "stop"
    max_skipped: int = 10

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"`non_finite.action` must be one of {', '.join(get_args(Action))}, got {self.action!r}.")
        check_least("non_finite.max_skipped", self.max_skipped, 0)


class Seen(NamedTuple):
    """A micro-batch, recorded until its step ends."""

    ids: Sequence[int]
    packed: bool  # its examples share one row
    stats: TokenStats
    sums: Tensor


class Guard:
    """Sums a step's loss over micro-batches and ranks, and stops the optimizer where the sum, or the norm of a rank's gradient, is not finite.

    DeepSpeed checks the gradient in half precision itself, and skips such steps uncounted. The scaler of ``16-mixed`` skips them too, to find its scale;
    where it does so MANY_SCALED times in a row, the run ends.

    All ranks decide alike, once a step, from the sum that is logged anyway. So the guard adds no collective.

    Args:
        options: How such steps are handled.
    """

    def __init__(self, options: NonFinite) -> None:
        self.options = options
        self.num_skipped = 0  # steps in the whole run
        self.num_scaled = 0  # steps in a row that a scaler skipped
        self.skips = False  # whether the last decided step is skipped
        self.nll: float | None = None  # mean over the open step's supervised tokens, once it is decided
        self._seen: list[Seen] = []  # this rank's micro-batches of the open step
        self._sums: Tensor | None = None  # [2], summed over them
        self._total: Tensor | None = None  # [2], over all ranks, once the open step is decided

    def see(self, ids: Sequence[int], packed: bool, stats: TokenStats, sums: Tensor) -> None:
        """Adds a micro-batch to the open step.

        Args:
            ids: The numbers of its examples.
            packed: Whether they share one row.
            stats: The statistics of its tokens.
            sums: ``[2]``, detached: weight times NLL and NLL, summed and divided by the step's number of tokens.
        """
        self._seen.append(Seen(ids, packed, TokenStats(stats.nll.detach(), stats.mask, stats.sequence_ids), sums))
        self._sums = sums if self._sums is None else self._sums + sums

    def attach(self, optimizer: Optimizer, trainer: Trainer, data: DomainDataModule) -> None:
        """Guards an optimizer. Attach it before other hooks, which then see no gradient in a skipped step."""
        removed: list[tuple[Tensor, Tensor | None]] = []

        def remove_gradients(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = run_closure(args, kwargs)
            if self._sums is None:  # torch and DeepSpeed step once to initialise an optimizer's state
                return args, kwargs
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            gradients = [] if is_deepspeed(trainer.strategy) else [weight.grad for weight in weights if weight.grad is not None]
            self.decide(trainer, data, gradients)
            if self.skips:
                for weight in weights:
                    removed.append((weight, weight.grad))
                    weight.grad = None
            return args, kwargs

        def restore_gradients(*_: object) -> None:
            for weight, gradient in removed:  # DeepSpeed's offload reuses one buffer for all steps
                weight.grad = gradient
            removed.clear()

        optimizer.register_step_pre_hook(remove_gradients)
        optimizer.register_step_post_hook(restore_gradients)

    def decide(self, trainer: Trainer, data: DomainDataModule, gradients: Sequence[Tensor] = ()) -> Tensor:
        """Returns the sums of the open step over micro-batches and ranks; the first call of a step is collective.

        Raises:
            ValueError: Where the loss or the gradient is not finite and the step may not be skipped.
        """
        if self._total is None:
            assert self._sums is not None
            spoiled = (~get_total_norm(list(map(local, gradients))).isfinite()).to(self._sums).reshape(1)
            total = sum_over_ranks(torch.cat([self._sums, spoiled]))
            self._total = total[:2]
            loss, self.nll, num_spoiled = total.tolist()  # the step's one device synchronization
            finite = {"loss": isfinite(loss), "gradient": num_spoiled == 0}
            self.skips = not all(finite.values())
            if self.skips:
                self.refuse_or_count(next(name for name, right in finite.items() if not right), trainer, data)
        return self._total

    def step_end(self, trainer: Trainer, data: DomainDataModule) -> Tensor:
        """Ends the step and returns its sums. Collective where no hook was called: scalers and DeepSpeed skip non-finite gradients themselves.

        Raises:
            ValueError: As ``decide``, and where a scaler has skipped too many steps in a row.
        """
        scaled = self._total is None and getattr(trainer.precision_plugin, "scaler", None) is not None
        total = self.decide(trainer, data)
        self.num_scaled = self.num_scaled + 1 if scaled and not self.skips else 0
        if self.num_scaled >= MANY_SCALED:
            raise ValueError(
                f"The gradient of {MANY_SCALED} steps in a row was not finite at any loss scale ({self.report(trainer, data)}); nothing was learned in them. "
                "Use `trainer.precision: bf16-mixed`, lower the learning rate, or look at the rows."
            )
        self._seen.clear()
        self._sums = self._total = self.nll = None
        return total

    def refuse_or_count(self, part: str, trainer: Trainer, data: DomainDataModule) -> None:
        """Raises, or counts the step that is skipped."""
        problem = f"The {part} of step {trainer.global_step + 1} is not finite ({self.report(trainer, data)})"
        if self.options.action == "stop":
            raise ValueError(f"{problem}; lower the learning rate, look at the rows, or skip such steps: `--model.non_finite.action skip`.")
        if self.num_skipped >= self.options.max_skipped:
            raise ValueError(
                f"{problem}, and `non_finite.max_skipped`, {self.options.max_skipped}, is reached; lower the learning rate, look at the rows, or raise it."
            )
        self.num_skipped += 1
        rank_zero_only(logger.warning)(f"{problem}; the step is skipped ({self.num_skipped} of at most {self.options.max_skipped}).")

    def report(self, trainer: Trainer, data: DomainDataModule) -> str:
        """Writes the examples to blame, and returns their number and the file; collective."""
        position = {"step": trainer.global_step + 1, "epoch": trainer.current_epoch + 1, "rank": trainer.global_rank}
        rows: list[dict[str, Any]] = []
        for everything in (False, True):  # where no micro-batch is to blame alone, all are
            rows = rows or gather_lists(
                [{**position, "packed": packed, **describe(index, nll, data)} for index, packed, nll in to_blame(self._seen, everything)]
            )
        path = Path(trainer.default_root_dir) / FILE
        number = f"{len(rows)} example{'s' if len(rows) > 1 else ''}"
        if any(row["packed"] for row in rows):
            number += " of packed rows, where a value that is not finite spreads to all"
        if trainer.is_global_zero:
            try:
                before = path.read_text(encoding="utf-8") if path.is_file() else ""
                write_text(path, before + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            except OSError as error:
                ids = ", ".join(str(row["example"]) for row in rows)
                return f"{number}, {ids}; {error}"
        return f"{number}, see {path}"


def to_blame(seen: Sequence[Seen], everything: bool) -> Iterator[tuple[int, bool, Tensor]]:
    """Yields number, whether packed, and supervised NLLs of each example with an NLL that is not finite.

    Where only the loss of a micro-batch is not finite, all its examples are yielded; with ``everything``, those of all micro-batches.
    """
    for ids, packed, stats, sums in seen:
        examples = [(index, stats.nll[stats.mask & (stats.sequence_ids == number)]) for number, index in enumerate(ids)]
        blamed = [(index, nll) for index, nll in examples if not nll.isfinite().all()]
        for index, nll in examples if everything or not (blamed or sums[0].isfinite()) else blamed:
            yield index, packed, nll


def describe(index: int, nll: Tensor, data: DomainDataModule) -> dict[str, Any]:
    """Describes a training example: its row, statistics of its NLLs, and its text."""
    encoded = data.encoded["train"]
    text = data.encoder.tokenizer.decode(encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]].tolist())
    finite = nll[nll.isfinite()].double()
    least, largest, mean = (finite.min(), finite.max(), finite.mean()) if len(finite) else (None, None, None)
    return {
        "example": index,
        "where": data.kept["train"][index].meta.get("where"),
        "num_supervised": len(nll),
        "num_non_finite": len(nll) - len(finite),
        **{name: value if value is None else float(value) for name, value in (("min_nll", least), ("max_nll", largest), ("mean_nll", mean))},
        "text": text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS // 2]} ... {text[-MAX_CHARACTERS // 2 :]}",
    }
