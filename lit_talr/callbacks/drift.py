"""How far a model has moved from the base model, on text that the base model writes: no data are needed."""

import gzip
import hashlib
import math
import zlib
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_talr.callbacks.base import Measure, epoch_is_due
from lit_talr.data.encoded import Batch
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.modeling.head import BaseLogits
from lit_talr.modeling.sharded import model_tensors
from lit_talr.modeling.strategies import shards_weights
from lit_talr.module import DomainSFT
from lit_talr.theory.code_length import TextBlocks, text_blocks
from lit_talr.theory.walk import start_token
from lit_talr.training.base_model import BaseModel
from lit_talr.training.base_text import ROWS, BaseText, base_text
from lit_talr.training.resume import check_same
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.errors import check_least, first_line
from lit_talr.utils.files import write_json_lines
from lit_talr.utils.score import Items
from lit_talr.utils.weight_files import model_folder, read_tensor

OF_CORPUS = ("bits_per_byte", "nll")
"""The numbers of each corpus."""


@dataclass(eq=False)
class Drift(Measure):
    """Measures KL(base || model) of the next token on text sampled from the base model, and logs it as ``drift/kl``, in nats per token.

    By Proposition 3.1 of the TALR paper, this is by how much the code length of the base model's own text has grown; it is exact over the vocabulary at every
    position. ``drift/kl_se`` is its standard error over the sequences, and ``drift/agreement`` the share of positions where both models have the same most
    likely token. For each file of ``corpora``, its code length ``drift/bits_per_byte/<name>`` and its NLL ``drift/nll/<name>`` in nats per token are logged,
    and in ``fit`` their growth ``drift/bits_per_byte_rise/<name>`` and ``drift/nll_rise/<name>``. Measured in ``test`` and, where an interval is given,
    before training (epoch 0: the base model itself), at the interval, and where the run ends. Each measurement of ``fit`` is a row of ``drift.jsonl`` in
    the run folder. Training is bitwise the same with and without this callback.

    The text is sampled once for each base model (temperature 1, all tokens, no stop, each sequence after BOS, or EOS where there is no BOS). It is cached in
    ``.cache/`` next to the run folder with the base model's hidden states, under the hash of its weights and the settings: runs side by side share it. Apart
    from these, only the weight of the base model's head is held, mapped from its file. The default is small enough for the lab's runs, whose epochs take
    seconds (docs/drift.md); a longer epoch has room for more sequences, and the error falls with the square root of their number.

    Args:
        every_n_epochs: Measure after every so many epochs, at least 1; null for no epoch.
        every_n_steps: Also measure after every so many optimizer steps, at least 1; null in both measures nothing during ``fit``.
        num_sequences: Number of sampled sequences, at least 2.
        length: Tokens of a sequence, at most the positions of the model; also of the blocks that the corpora are cut into, which are scored independently.
        seed: Seed of the sampling.
        corpora: Plain-text files in UTF-8, named by their stems; those that end in ``.gz`` are unpacked.
        corpus_bytes: Bytes that are read from the beginning of each file, at least 1.
        base: Model folder or hub name of the base model in ``test``, where the tested model is another than the one trained from it (Wise-FT); by default
            ``model.pretrained``.

    Raises:
        ValueError: For a number out of range or a file that cannot be read; at start-up for random weights and where every weight is sharded; when resuming
            with other settings.
    """

    every_n_epochs: int | None = 1
    every_n_steps: int | None = None
    num_sequences: int = 16
    length: int = 64
    seed: int = 0
    corpora: Sequence[str] = ()
    corpus_bytes: int = 65536
    base: str | None = None

    measures = "drift/kl"

    def __post_init__(self) -> None:
        least = {"every_n_epochs": 1, "every_n_steps": 1, "num_sequences": 2, "length": 1, "seed": 0, "corpus_bytes": 1}
        for name, number in least.items():
            check_least(name, getattr(self, name), number)
        stems = [corpus_name(file) for file in self.corpora]
        if len(set(stems)) < len(stems):
            raise ValueError(f"`corpora` are named by their files' stems, which must differ, got {', '.join(stems)}; rename one.")
        self.text: BaseText | None = None
        self.blocks: dict[str, Corpus] = {}
        self.rows: list[dict[str, float]] = []  # of all measurements, the base model's first
        self._base: BaseModel | None = None
        self._head: tuple[Tensor, Tensor | None] | None = None  # the base model's weight and bias, memory-mapped

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        """Sample the text before any weight is loaded for training, so that the base model is gone by then."""
        if not self.is_asked(stage):
            return
        if pl_module.pretrained is None:
            raise ValueError("`Drift` compares with the base model, and a run from random weights has none; give `model.pretrained`, or leave it out.")
        if shards_weights(trainer.strategy):
            raise ValueError(
                "`Drift` runs the model outside of its training step, which is not supported where every weight is sharded (ZeRO-3, FSDP2); leave it out, "
                "or use configs/strategy/ddp.yaml or zero2.yaml."
            )
        tokenizer = pl_module.data.encoder.tokenizer
        for file in self.corpora:
            text = read_text(Path(file), self.corpus_bytes)
            self.blocks[corpus_name(file)] = Corpus(text_blocks(tokenizer, text, self.length), hashlib.sha256(text.encode()).hexdigest())
        with isolate_rng():  # loading a model draws random numbers
            self._base = pl_module.base_model().scored_in(trainer, pl_module.arithmetic)
            if stage == "test" and self.base is not None:
                self._base = self._base._replace(pretrained=self.base, revision=None)
            self.text = base_text(trainer, self._base, start_token(tokenizer), self.num_sequences, self.length, self.seed)

    def is_asked(self, stage: str) -> bool:
        return super().is_asked(stage) or (stage == "fit" and self.every_n_steps is not None)

    def metric_names(self, module: DomainSFT) -> list[str]:
        corpora = [f"{number}{rise}/{name}" for number in OF_CORPUS for rise in ("", "_rise") for name in map(corpus_name, self.corpora)]
        return [f"drift/{name}" for name in ("kl", "kl_se", "agreement", "epoch", "step", *corpora)] if self.is_asked("fit") else []

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Measure the base model, or a resumed run's weights if its checkpoint was written before their measurement."""
        if not self.is_asked("fit"):
            return
        epoch, step = divmod(trainer.global_step, pl_module.plan.steps_per_epoch)
        due = step == 0 and self.every_n_epochs is not None and epoch % self.every_n_epochs == 0
        due = due or (self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0)
        if not self.rows or (due and self.rows[-1]["step"] < trainer.global_step):
            self.watch(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        ended = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if ended and self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self.watch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        due = epoch_is_due(trainer, self.every_n_epochs)
        ends = self.is_asked("fit") and (trainer.should_stop or trainer.global_step >= pl_module.num_steps)
        if self.measured_step != trainer.global_step and (due or ends):
            self.watch(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        for name, value in self.measure(trainer, pl_module).items():
            pl_module.log_score(f"drift/{name}", value, self.items(name))

    def measure(self, trainer: Trainer, module: DomainSFT) -> dict[str, float]:
        """Measure the model as it is. Collective."""
        with evaluation_mode(module), torch.no_grad(), module.scoring():
            parts = [self.divergence(trainer, module), *(self.corpus_numbers(trainer, module, name) for name in self.blocks)]
        return {name: value for part in parts for name, value in part.items()}

    def watch(self, trainer: Trainer, module: DomainSFT) -> None:
        """Measure, log and write. Collective."""
        step, row = trainer.global_step, self.measure(trainer, module)
        if step == 0 or (self.rows and self.rows[0]["step"] == 0):
            base = self.rows[0] if self.rows else row
            row |= {f"{number}_rise/{name}": row[f"{number}/{name}"] - base[f"{number}/{name}"] for number in OF_CORPUS for name in self.blocks}
        self.rows.append({"epoch": step / module.plan.steps_per_epoch, "step": step, **row})
        self.measured_step = step
        named = {f"drift/{name}": value for name, value in row.items()}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in named.items()})
        for name in named:
            module.note(name, self.items(name))
        for board in trainer.loggers:
            board.log_metrics(named, step=max(0, step - 1))  # at the step that ended last, as Lightning logs validation
        if trainer.is_global_zero:
            write_json_lines(Path(trainer.default_root_dir) / "drift.jsonl", self.rows)

    def divergence(self, trainer: Trainer, module: DomainSFT) -> dict[str, float]:
        """Divergence, its error and the agreement over all sequences, which the ranks share. Collective."""
        assert module.backbone is not None and self.text is not None and self._base is not None
        self._head = self._head or base_head(module, self._base)
        device, dtype = module.device, module.backbone.head.weight.dtype
        weight, bias = (None if part is None else part.to(device, dtype) for part in self._head)
        sums = torch.zeros(self.num_sequences, 2, dtype=torch.float64, device=device)
        own_ids = range(trainer.global_rank, self.num_sequences, trainer.world_size)
        for first in range(0, len(own_ids), ROWS):
            ids = torch.tensor(own_ids[first : first + ROWS])
            hidden = module.backbone.states(self.text.tokens[ids, :-1].to(device)).flatten(0, 1)
            base = BaseLogits(self.text.hidden[ids].to(device).flatten(0, 1), weight, bias)  # type: ignore[arg-type]
            compared = module.backbone.head(hidden, base=base)
            sums[ids.to(device)] = torch.stack([part.double().view(len(ids), -1).mean(1) for part in compared], 1)
        kl, agreement = sum_over_ranks(sums).unbind(1)
        return {"kl": float(kl.mean()), "kl_se": float(kl.std()) / math.sqrt(self.num_sequences), "agreement": float(agreement.mean())}

    def corpus_numbers(self, trainer: Trainer, module: DomainSFT, name: str) -> dict[str, float]:
        """Code length per byte and NLL per token of a corpus, whose blocks the ranks share. Collective."""
        assert module.backbone is not None
        corpus = self.blocks[name]
        own_blocks = corpus.text.blocks[trainer.global_rank :: trainer.world_size]
        nats = torch.zeros((), dtype=torch.float64, device=module.device)
        for first in range(0, len(own_blocks), ROWS):
            input_ids, labels = pad_blocks(own_blocks[first : first + ROWS])
            nats += module.backbone(input_ids.to(module.device), labels.to(module.device)).nll.double().sum()
        total = float(sum_over_ranks(nats))
        return {f"bits_per_byte/{name}": corpus.text.bits_per_byte(total), f"nll/{name}": total / sum(len(block) - 1 for block in corpus.text.blocks)}

    def items(self, name: str) -> Items:
        """The tokens that a number is over."""
        assert self.text is not None
        corpus = self.blocks.get(name.rpartition("/")[2])
        if corpus is not None:
            return Items(sum(map(len, corpus.text.blocks)), "tokens", corpus.sha256)
        return Items(self.num_sequences, "sequences", hashlib.sha256(self.text.tokens.numpy().data).hexdigest())

    def settings(self) -> dict[str, Any]:
        corpora = {name: corpus.sha256 for name, corpus in self.blocks.items()}
        return {"num_sequences": self.num_sequences, "length": self.length, "seed": self.seed, "corpora": corpora}

    def state_dict(self) -> dict[str, Any]:
        """The same on all ranks; without settings where ``fit`` measures nothing."""
        return {"settings": self.settings() if self.is_asked("fit") else {}, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = self.settings()
        for name, there in state_dict["settings"].items():
            check_same(f"Drift.{name}", there, here[name])
        self.rows = state_dict["rows"]


class Corpus(NamedTuple):
    """The part of a file that is scored."""

    text: TextBlocks
    sha256: str


def corpus_name(file: str) -> str:
    """The name that a file's code length is logged by."""
    return Path(file.removesuffix(".gz")).stem


def read_text(file: Path, num_bytes: int) -> str:
    """The beginning of a file, cut between characters; refuses a file that cannot be read, is empty, or is not UTF-8."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            content = opened.read(num_bytes + 1)
        text = getincrementaldecoder("utf-8")().decode(content[:num_bytes], final=len(content) <= num_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"`corpora`: {file} cannot be read ({getattr(error, 'strerror', None) or first_line(error)}); name plain-text files.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`corpora`: {file} is not UTF-8 text (byte {error.start}); convert it, or name another.") from error
    if not text:
        raise ValueError(f"`corpora`: {file} is empty, or `corpus_bytes` is less than its first character; name a text of at least one byte.")
    return text


def pad_blocks(blocks: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Inputs and labels ``[B, T]`` of blocks of tokens: all but the last, and all but the first of each block."""
    inputs = pad_sequence([torch.tensor(block[:-1]) for block in blocks], batch_first=True)
    return inputs, pad_sequence([torch.tensor(block[1:]) for block in blocks], batch_first=True, padding_value=IGNORE_INDEX)


def base_head(module: DomainSFT, base: BaseModel) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the base model's head, memory-mapped; the embedding where weights are tied."""
    assert module.backbone is not None
    model, head = module.backbone.model, module.backbone.head
    stored = model_tensors(model, model_folder(base.pretrained, base.revision))
    names = {id(value): name for name, value in model.state_dict(keep_vars=True).items() if name in stored}
    return read_tensor(stored[names[id(head.weight)]]), None if head.bias is None else read_tensor(stored[names[id(head.bias)]])
