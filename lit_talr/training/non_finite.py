"""A loss or gradient that is not finite: the run stops before the optimizer changes anything, or goes on without the step; its examples go to a file."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lit_talr.domains.base import DomainDataModule
from lit_talr.losses.base import TokenStats
from lit_talr.losses.l2 import run_closure
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.files import write_text

logger = logging.getLogger(__name__)
Action = Literal["stop", "skip"]
FILE = "non_finite.jsonl"
MANY_SCALED = 30
"""A scaler starts at 2^16 and halves its scale at each such step: after thirty, no scale is small enough."""
MAX_CHARACTERS = 2000  # of a prompt, and of an answer, in the file


@dataclass(frozen=True)
class NonFinite:
    """What happens at an optimizer step whose loss or gradient is infinite or not a number. Its examples go to ``non_finite.jsonl`` of the run folder, with
    their texts.

    Args:
        action: ``stop`` ends the run before the optimizer changes anything; ``skip`` leaves weights and optimizer as they are, and goes on with the next step.
        max_skipped: Optimizer steps that ``skip`` skips in the whole run at most, at least 0; the next one ends it.

    Raises:
        ValueError: For a value out of range.
    """

    action: Action = "stop"
    max_skipped: int = 10

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"`non_finite.action` must be one of {', '.join(get_args(Action))}, got {self.action!r}.")
        if self.max_skipped < 0:
            raise ValueError(f"`non_finite.max_skipped` must be 0 or a positive integer, got {self.max_skipped}.")


class Seen(NamedTuple):
    """What is kept of a micro-batch until its step ends."""

    ids: Sequence[int]
    packed: bool  # in one row
    stats: TokenStats
    sums: Tensor


class Guard:
    """Sums a step's loss over micro-batches and ranks, and keeps the optimizer from a step where the sum, or the norm of a rank's gradient, is not finite.

    The gradient is not looked at under DeepSpeed, which in half precision skips such steps by itself, uncounted. A scaler of ``16-mixed`` skips them too, to
    find its scale; where it does so MANY_SCALED times in a row, the run ends.

    All ranks decide the same, once a step, from the sum that is logged: one collective, with the guard as without it.

    Args:
        options: What to do then.
    """

    def __init__(self, options: NonFinite) -> None:
        self.options = options
        self.num_skipped = 0  # steps of the whole run
        self.num_scaled = 0  # steps in a row that a scaler left out
        self.skips = False  # whether the step that was decided last is skipped
        self._seen: list[Seen] = []  # this rank's micro-batches of the open step
        self._sums: Tensor | None = None  # over them
        self._total: Tensor | None = None  # over all ranks, once the open step is decided

    def see(self, ids: Sequence[int], packed: bool, stats: TokenStats, sums: Tensor) -> None:
        """Count in a micro-batch.

        Args:
            ids: The numbers of its examples.
            packed: Whether they stand in one row.
            stats: Of its tokens.
            sums: ``[2]``, detached, weight times NLL and NLL, summed and divided by the step's number of tokens.
        """
        self._seen.append(Seen(ids, packed, TokenStats(stats.nll.detach(), stats.mask, stats.sequence_ids), sums))
        self._sums = sums if self._sums is None else self._sums + sums

    def attach(self, optimizer: Optimizer, trainer: Trainer, data: DomainDataModule) -> None:
        """Guard an optimizer; before any other hook, which then finds no gradient in a step that is skipped."""
        taken: list[tuple[Tensor, Tensor | None]] = []

        def take_gradients(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = run_closure(args, kwargs)
            if self._sums is None:  # not a step of training: torch and DeepSpeed take one to set up an optimizer's state
                return args, kwargs
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            gradients = [] if isinstance(trainer.strategy, DeepSpeedStrategy) else [weight.grad for weight in weights if weight.grad is not None]
            self.decide(trainer, data, gradients)
            if self.skips:
                for weight in weights:
                    taken.append((weight, weight.grad))
                    weight.grad = None
            return args, kwargs

        def give_back(*_: object) -> None:
            for weight, gradient in taken:  # DeepSpeed's offload has one buffer for all steps
                weight.grad = gradient
            taken.clear()

        optimizer.register_step_pre_hook(take_gradients)
        optimizer.register_step_post_hook(give_back)

    def decide(self, trainer: Trainer, data: DomainDataModule, gradients: Sequence[Tensor] = ()) -> Tensor:
        """The sums of the open step over micro-batches and ranks; collective, when first asked for in a step.

        Raises:
            ValueError: Where the loss or the gradient is not finite, and the step is not to be skipped.
        """
        if self._total is None:
            assert self._sums is not None
            own = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
            spoiled = (~get_total_norm(own).isfinite()).to(self._sums).reshape(1)
            *sums, num_spoiled = sum_over_ranks(torch.cat([self._sums, spoiled]))
            self._total = torch.stack(sums)
            finite = dict(zip(("loss", "gradient"), torch.stack([sums[0].isfinite(), num_spoiled == 0]).tolist(), strict=True))  # the step's one wait for a GPU
            self.skips = not all(finite.values())
            if self.skips:
                self.refuse_or_count(next(name for name, right in finite.items() if not right), trainer, data)
        return self._total

    def step_end(self, trainer: Trainer, data: DomainDataModule) -> Tensor:
        """The sums of the step, which is forgotten. Collective where no hook was called: scalers and DeepSpeed skip non-finite gradients by themselves.

        Raises:
            ValueError: As ``decide``, and where a scaler has left out too many steps in a row.
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
        self._sums = self._total = None
        return total

    def refuse_or_count(self, what: str, trainer: Trainer, data: DomainDataModule) -> None:
        found = f"The {what} of step {trainer.global_step + 1} is not finite ({self.report(trainer, data)})"
        if self.options.action == "stop":
            raise ValueError(f"{found}; lower the learning rate, look at the rows, or skip such steps: `--model.non_finite.action skip`.")
        if self.num_skipped >= self.options.max_skipped:
            raise ValueError(
                f"{found}, and `non_finite.max_skipped`, {self.options.max_skipped}, is reached; lower the learning rate, look at the rows, or raise it."
            )
        self.num_skipped += 1
        rank_zero_only(logger.warning)(f"{found}; it is skipped, as {self.num_skipped} of at most {self.options.max_skipped}.")

    def report(self, trainer: Trainer, data: DomainDataModule) -> str:
        """Write the examples to blame, and say how many they are and where; collective."""
        place = {"step": trainer.global_step + 1, "epoch": trainer.current_epoch + 1, "rank": trainer.global_rank}
        rows: list[dict[str, Any]] = []
        for everything in (False, True):  # where no micro-batch is to blame by itself, the step is
            rows = rows or gather([{**place, "packed": packed, **describe(index, nll, data)} for index, packed, nll in to_blame(self._seen, everything)])
        path = Path(trainer.default_root_dir) / FILE
        number = f"{len(rows)} example{'s' if len(rows) > 1 else ''}"
        if any(row["packed"] for row in rows):
            number += " of packed rows, where what is not finite spreads from one to all"
        if trainer.is_global_zero:
            try:
                before = path.read_text(encoding="utf-8") if path.is_file() else ""
                write_text(path, before + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            except OSError as error:
                ids = ", ".join(str(row["example"]) for row in rows)
                return f"{number}, {ids}; {path} could not be written: {error.strerror or error}"
        return f"{number}, see {path}"


def to_blame(seen: Sequence[Seen], everything: bool) -> Iterator[tuple[int, bool, Tensor]]:
    """Number, whether packed, and supervised NLLs of each example with an NLL that is not finite; where a micro-batch has none but its loss is not, of all
    in it.
    """
    for ids, packed, stats, sums in seen:
        examples = [(index, stats.nll[stats.mask & (stats.sequence_ids == place)]) for place, index in enumerate(ids)]
        blamed = [(index, nll) for index, nll in examples if not nll.isfinite().all()]
        for index, nll in examples if everything or not (blamed or sums[0].isfinite()) else blamed:
            yield index, packed, nll


def describe(index: int, nll: Tensor, data: DomainDataModule) -> dict[str, Any]:
    """An example of the training split: its row, statistics of its NLLs, and its text."""
    encoded, decode = data.encoded["train"], data.encoder.tokenizer.decode
    first, last = encoded.offsets[index], encoded.offsets[index + 1]
    tokens, answer = encoded.tokens[first:last].tolist(), int(encoded.supervised[first:last].argmax())
    finite = nll[nll.isfinite()].double()
    least, largest, mean = (finite.min(), finite.max(), finite.mean()) if len(finite) else (None, None, None)
    return {
        "example": index,
        "where": data.kept["train"][index].meta.get("where"),
        "num_supervised": len(nll),
        "num_non_finite": len(nll) - len(finite),
        **{name: value if value is None else float(value) for name, value in (("min_nll", least), ("max_nll", largest), ("mean_nll", mean))},
        "prompt": decode(tokens[:answer])[:MAX_CHARACTERS],
        "answer": decode(tokens[answer:])[:MAX_CHARACTERS],
    }


def gather(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all ranks, one after the other; on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
