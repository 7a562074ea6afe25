"""A training step beside a bare loop and TRL: time, tokens a second, peak memory, and a check that all compute the same loss.

    python -m benchmarks.step --train $LIT_TALR_DATA/medcalc/train_subset.parquet --test $LIT_TALR_DATA/medcalc/test_v1.0.parquet --tokenizer tokenizer
        (the tokenizer is one of 32,000 tokens: python benchmarks/tokenizer.py $LIT_TALR_DATA/general_text/*.txt.gz --vocabulary 32000 --out tokenizer)

All start from the same random weights of a Qwen3 shape and train on the same MedCalc-Bench rows in the same order with AdamW, float32 on a CPU:

    ours           lit_talr with TALR, without callbacks
    ours, watched  the same with ``TokenProbability``: statistics of every token, histograms, temperature
    bare           a hand-written PyTorch loop: TALR on the supervised tokens alone, their logits kept
    trl            TRL's SFTTrainer with ``loss_type="dft"``, which weighs tokens too

Each runs in a process of its own, in turn and several times over. A step is what lies between the ends of two optimizer steps, loading and collation
included. Memory is the process's peak (``ru_maxrss``), everything imported included. The loss of the first step, before anything is learned, must be
that of the bare loop: TALR's for ours, DFT's for TRL.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

VARIANTS = ("ours", "ours, watched", "bare", "trl")
IGNORE_INDEX = -100
LEARNING_RATE = 1e-5
MICRO_BATCH = 4
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def prepare(folder: Path, train: str, test: str, tokenizer: str, max_length: int) -> None:
    """Rows as tokens, in the order of the first epoch, and the starting weights."""
    from lit_talr.backbone import load_model
    from lit_talr.data import MedCalc
    from lit_talr.data.batch_plan import epoch_order
    from lit_talr.data.encoding import Encoding, TooLong

    data = MedCalc(tokenizer, train=train, test=test, encoding=Encoding(max_length=max_length, too_long="truncate_prompt"))
    rows = []
    for example in data.examples("train"):
        with suppress(TooLong):  # even without its note
            rows.append(data.encoder.encode(example))
    rows = [rows[index] for index in epoch_order(len(rows), 0, 0, shuffle=True)]
    lengths = [len(row.input_ids) for row in rows]
    arrays = {"tokens": np.concatenate([row.input_ids for row in rows]), "supervised": np.concatenate([row.supervised for row in rows])}
    np.savez(folder / "rows.npz", lengths=lengths, **arrays)
    torch.manual_seed(0)
    load_model(None, None, QWEN3, len(data.encoder.tokenizer), None).save_pretrained(folder / "model")
    data.encoder.tokenizer.save_pretrained(folder / "model")
    prompts = [int((~row.supervised).sum()) for row in rows]
    answers = np.subtract(lengths, prompts)
    print(f"{len(rows)} rows of {np.median(prompts):.0f} prompt and {np.median(answers):.0f} answer tokens (medians)")


def read_rows(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens, and which of them are supervised."""
    with np.load(folder / "rows.npz") as file:
        ends = np.cumsum(file["lengths"])[:-1]
        return list(zip(np.split(file["tokens"], ends), np.split(file["supervised"], ends), strict=True))


class Times:
    """Seconds and tokens of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ends: list[float] = []

    def end(self, loss: float) -> None:
        self.ends.append(time.perf_counter())
        self.losses.append(loss)

    def report(self) -> dict[str, Any]:
        return {"seconds": np.diff(self.ends).tolist(), "loss": self.losses[0], "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(folder: Path, steps: int, watched: bool) -> dict[str, Any]:
    from lightning.pytorch import Callback, Trainer, seed_everything

    from lit_talr.callbacks import TokenProbability
    from lit_talr.data.base import DomainDataModule, EncodedExamples, Split
    from lit_talr.data.batch_plan import Batching
    from lit_talr.data.encoding import Encoded
    from lit_talr.losses import TALR
    from lit_talr.module import DomainSFT
    from lit_talr.schedules import Constant

    class Prepared(DomainDataModule):
        def encode(self, split: Split) -> None:
            self.encoded[split] = EncodedExamples([Encoded(tokens, mask, 0) for tokens, mask in read_rows(folder)], self.encoder.pad_token_id)

        def examples(self, split: Split) -> list[Any]:
            return []

        metric = examples

    times = Times()

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            times.end(float(trainer.callback_metrics["train/loss"]))

    seed_everything(0, verbose=False)
    optimizer: Any = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0)
    module = DomainSFT(TALR(), optimizer, Constant(), pretrained=str(folder / "model"))
    data = Prepared(str(folder / "model"), batching=Batching(MICRO_BATCH, MICRO_BATCH))
    data.plan = partial(without_shuffle, data.plan)  # type: ignore[method-assign]
    watching = [TokenProbability(probe_size=4)] if watched else []
    off: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: Any = {"max_epochs": 1, "max_steps": steps, "gradient_clip_val": 1.0, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    Trainer(accelerator="cpu", devices=1, precision="32-true", callbacks=[*watching, Clock()], default_root_dir=str(folder), **options, **off).fit(module, data)
    return times.report()


def without_shuffle(plan: Any, split: str, shuffle: bool = False) -> Any:
    """The rows are in the epoch's order already."""
    return plan(split)


def batches(folder: Path, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, mask and labels, padded on the right, as one would write it."""
    rows = read_rows(folder)
    for first in range(0, steps * MICRO_BATCH, MICRO_BATCH):
        part = rows[first : first + MICRO_BATCH]
        longest = max(len(tokens) for tokens, _ in part) - 1
        ids, mask = torch.zeros(2, len(part), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORE_INDEX)
        for row, (tokens, supervised) in enumerate(part):
            width = len(tokens) - 1
            ids[row, :width], mask[row, :width] = torch.from_numpy(tokens[:-1]), 1
            labels[row, :width] = torch.from_numpy(np.where(supervised[1:], tokens[1:], IGNORE_INDEX))
        yield ids, mask, labels


def bare(folder: Path, steps: int) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    times, dft = Times(), None
    for ids, mask, labels in batches(folder, steps):
        supervised = labels != IGNORE_INDEX
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[supervised]
        nll = functional.cross_entropy(model.lm_head(hidden), labels[supervised], reduction="none")
        means = torch.stack([part.mean() for part in nll.detach().split(supervised.sum(1).tolist())])
        weights = (-nll.detach() / means.median()).exp().clamp(min=0.01)
        loss = (weights * nll).mean()
        dft = dft or float(((-nll).exp() * nll).mean())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.end(float(loss))
    return {**times.report(), "dft": dft}


def trl(folder: Path, steps: int) -> dict[str, Any]:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": tokens.tolist(), "completion_mask": mask.astype(int).tolist()} for tokens, mask in read_rows(folder)[: steps * MICRO_BATCH]]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    times = Times()

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.end(0.0)

    options: Any = {"loss_type": "dft", "completion_only_loss": True, "max_length": None, "max_grad_norm": 1.0, "lr_scheduler_type": "constant"}
    quiet: Any = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    plain: Any = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "train_sampling_strategy": "sequential", "max_steps": steps}
    arguments = SFTConfig(str(folder / "trl"), per_device_train_batch_size=MICRO_BATCH, learning_rate=LEARNING_RATE, **options, **quiet, **plain)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    trainer = SFTTrainer(model, arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Clock()])
    trainer.train()
    return {**times.report(), "loss": next(row["loss"] for row in trainer.state.log_history if "loss" in row)}


def measure(variant: str, folder: Path, steps: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    if variant.startswith("ours"):
        return ours(folder, steps, watched=variant != "ours")
    return bare(folder, steps) if variant == "bare" else trl(folder, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", help="rows of MedCalc-Bench")
    parser.add_argument("--test", help="likewise, those of the test set, whose notes are left out of training")
    parser.add_argument("--tokenizer", help="a folder")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=15, help="of each process; the first three are left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one in this process, and print JSON")
    parser.add_argument("--folder", type=Path, help="with --variant: what was prepared")
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.folder, arguments.steps, arguments.threads)))
        return
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.train, arguments.test, arguments.tokenizer, arguments.max_length)
        tokens = [int(mask.sum()) for _, mask, _ in batches(folder, arguments.steps)][3:]
        for _ in range(arguments.rounds):
            for variant in VARIANTS:
                words = [f"--variant={variant}", f"--folder={folder}", f"--steps={arguments.steps}", f"--threads={arguments.threads}"]
                output = subprocess.run([sys.executable, "-m", "benchmarks.step", *words], check=True, stdout=subprocess.PIPE, text=True).stdout
                found[variant].append(json.loads(output.splitlines()[-1]))
    medians = {variant: [statistics.median(run["seconds"][2:]) for run in runs] for variant, runs in found.items()}
    memory = {variant: statistics.median(run["mib"] for run in runs) for variant, runs in found.items()}
    print("\n| | step, s (of each round) | ratio to bare | tokens/s | peak, MiB | ratio to bare | loss of step 1 |\n|---|---|---|---|---|---|---|")
    for variant in VARIANTS:
        ratio = statistics.median(own / floor for own, floor in zip(medians[variant], medians["bare"], strict=True))
        speed = statistics.mean(tokens) / statistics.median(medians[variant])
        rounds = ", ".join(f"{seconds:.3f}" for seconds in medians[variant])
        losses = f"{found[variant][0]['loss']:.6f}"
        print(f"| {variant} | {rounds} | {ratio:.2f} | {speed:,.0f} | {memory[variant]:,.0f} | {memory[variant] / memory['bare']:.2f} | {losses} |")
    own, floor, other = (found[variant][0] for variant in ("ours", "bare", "trl"))
    print(f"\nLosses of step 1: TALR, ours / bare - 1 = {own['loss'] / floor['loss'] - 1:.1e}; DFT, TRL / bare - 1 = {other['loss'] / floor['dft'] - 1:.1e}")
    ratios = [own / theirs for own, theirs in zip(medians["ours"], medians["trl"], strict=True)]
    print(f"Ours / TRL: time {statistics.median(ratios):.2f}, memory {memory['ours'] / memory['trl']:.2f}")


if __name__ == "__main__":
    main()
