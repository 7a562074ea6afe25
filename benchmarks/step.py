"""A training step next to a bare loop and TRL: time, tokens a second, peak memory, and a check that all compute the same loss.

    python -m benchmarks.step --train $LIT_TALR_DATA/medcalc/train_subset.parquet --test $LIT_TALR_DATA/medcalc/test_v1.0.parquet --tokenizer tokenizer
        (the tokenizer is one of 32,000 tokens: python benchmarks/tokenizer.py $LIT_TALR_DATA/general_text/*.txt.gz --vocabulary 32000 --out tokenizer)

On a GPU, a Qwen2.5-3B shape and random rows of one length, so that nothing is padding:

    python -m benchmarks.step --device cuda --tokenizer lit_talr/lab/base --shape qwen2.5-3b --documents 4x1024 --packing --attention flex_attention

All start from the same random weights and train on the same rows in the same order with fused AdamW, float32 or, with ``--device cuda``, ``bf16-mixed``:

    ours           lit_talr with TALR, without callbacks
    ours, watched  the same with ``TokenProbability``: statistics of every token, histograms, temperature
    bare           a hand-written PyTorch loop: TALR on the supervised tokens alone, their logits kept
    trl            TRL's SFTTrainer with ``loss_type="dft"``, which weighs tokens too

Each runs in its own process, in turn and several times. A step is the time between the ends of two optimizer steps, loading and collation included.
Memory is the process's peak (``ru_maxrss``), imports included; on CUDA the allocator's. The loss of the first step, before anything is learned, must be
that of the bare loop: TALR's for ours, DFT's for TRL. Model FLOPs are 6 a parameter and token, plus those of causal attention; recomputation does not
count.
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
from dataclasses import asdict, dataclass
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
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "model_type": "qwen3",
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
    "qwen2.5-3b": {
        "model_type": "qwen2",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
}


@dataclass(frozen=True)
class Setting:
    """Settings that the variants share."""

    steps: int
    threads: int
    device: str
    micro_batch: int
    packing: bool
    attention: str

    @property
    def half(self) -> bool:
        return self.device == "cuda"

    def model(self, folder: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation=self.attention, trust_remote_code=False).train()


def prepare(folder: Path, train: str, test: str, tokenizer: str, max_length: int, shape: str, documents: str | None, num_rows: int) -> None:
    """Write the rows as tokens, in the order of the first epoch, and the initial weights."""
    from lit_talr.data.tokenizer import load_tokenizer
    from lit_talr.modeling.loading import load_model

    if documents is None:
        lengths, tokens, supervised = medcalc_rows(train, test, tokenizer, max_length)
    else:
        lengths = [int(documents.partition("x")[2])] * num_rows
        tokens = np.random.default_rng(0).integers(0, len(load_tokenizer(tokenizer)), sum(lengths))
        supervised = np.ones(len(tokens), dtype=bool)
        supervised[:: lengths[0]] = False
    np.savez(folder / "rows.npz", lengths=lengths, tokens=tokens, supervised=supervised)
    torch.manual_seed(0)
    load_model(None, None, SHAPES[shape], len(load_tokenizer(tokenizer)), None).save_pretrained(folder / "model")
    load_tokenizer(tokenizer).save_pretrained(folder / "model")
    ends = np.cumsum(lengths)
    answers = np.diff(np.cumsum(supervised)[ends - 1], prepend=0)
    print(f"{len(lengths)} rows of {np.median(lengths - answers):.0f} prompt and {np.median(answers):.0f} answer tokens (medians)")


def medcalc_rows(train: str, test: str, tokenizer: str, max_length: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    from lit_talr.data.batch_plan import epoch_order
    from lit_talr.data.encoder import TooLong
    from lit_talr.data.encoding import Encoding
    from lit_talr.domains import MedCalc

    data = MedCalc(tokenizer, train=train, test=test, encoding=Encoding(max_length=max_length, too_long="truncate_prompt"))
    rows = []
    for example in data.examples("train"):
        with suppress(TooLong):  # even without its note
            rows.append(data.encoder.encode(example))
    rows = [rows[index] for index in epoch_order(len(rows), 0, 0, shuffle=True)]
    parts = [np.concatenate([getattr(row, name) for row in rows]) for name in ("input_ids", "supervised")]
    return [len(row.input_ids) for row in rows], *parts


def read_rows(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids, and which of them are supervised."""
    with np.load(folder / "rows.npz") as file:
        ends = np.cumsum(file["lengths"])[:-1]
        return list(zip(np.split(file["tokens"], ends), np.split(file["supervised"], ends), strict=True))


class Times:
    """Seconds and tokens of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ends: list[float] = []

    def end(self, loss: float) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.losses.append(loss)

    def report(self) -> dict[str, Any]:
        mib = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": np.diff(self.ends).tolist(), "loss": self.losses[0], "mib": mib}


def ours(folder: Path, setting: Setting, watched: bool) -> dict[str, Any]:
    from lightning.pytorch import Callback, Trainer, seed_everything

    from benchmarks.prepared import Prepared
    from lit_talr.callbacks import TokenProbability
    from lit_talr.data.batch_plan import Batching
    from lit_talr.data.encoder import Encoded
    from lit_talr.losses import TALR
    from lit_talr.module import DomainSFT
    from lit_talr.training.building import Compute
    from lit_talr.training.schedules import Constant

    rows = [Encoded(tokens, mask, 0, np.zeros_like(mask)) for tokens, mask in read_rows(folder)]

    times = Times()

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            times.end(float(trainer.callback_metrics["train/loss"]))

    seed_everything(0, verbose=False)
    optimizer: Any = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    module = DomainSFT(TALR(), optimizer, Constant(), pretrained=str(folder / "model"), compute=Compute(attention=setting.attention))
    tokens = sum(len(row) - 1 for row, _ in read_rows(folder)[: setting.micro_batch])
    layout: Any = {"micro_batch_tokens": tokens, "packing": True} if setting.packing else {"micro_batch_size": setting.micro_batch}
    data = Prepared(str(folder / "model"), Batching(setting.micro_batch, **layout), rows)
    data.plan = partial(without_shuffle, data.plan)  # type: ignore[method-assign]
    watching = [TokenProbability(probe_size=4)] if watched else []
    off: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: Any = {"max_epochs": 1, "max_steps": setting.steps, "gradient_clip_val": 1.0, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    options |= {"accelerator": setting.device, "precision": "bf16-mixed" if setting.half else "32-true"}
    Trainer(devices=1, callbacks=[*watching, Clock()], default_root_dir=str(folder), **options, **off).fit(module, data)
    return times.report()


def without_shuffle(plan: Any, split: str, shuffle: bool = False) -> Any:
    """Plan without shuffling, since the rows are in the epoch's order already."""
    return plan(split)


def batches(folder: Path, setting: Setting) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Token ids, mask and labels, padded on the right, as in a plain loop."""
    rows = read_rows(folder)
    for first in range(0, setting.steps * setting.micro_batch, setting.micro_batch):
        part = rows[first : first + setting.micro_batch]
        longest = max(len(tokens) for tokens, _ in part) - 1
        ids, mask = torch.zeros(2, len(part), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORE_INDEX)
        for row, (tokens, supervised) in enumerate(part):
            width = len(tokens) - 1
            ids[row, :width], mask[row, :width] = torch.from_numpy(tokens[:-1]), 1
            labels[row, :width] = torch.from_numpy(np.where(supervised[1:], tokens[1:], IGNORE_INDEX))
        yield ids.to(setting.device), mask.to(setting.device), labels.to(setting.device)


def bare(folder: Path, setting: Setting) -> dict[str, Any]:
    model = setting.model(folder).to(setting.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    times, dft = Times(), None
    for ids, mask, labels in batches(folder, setting):
        supervised = labels != IGNORE_INDEX
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.half):
            hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[supervised]
            nll = functional.cross_entropy(model.lm_head(hidden).float(), labels[supervised], reduction="none")
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


def trl(folder: Path, setting: Setting) -> dict[str, Any]:
    import datasets
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    used = read_rows(folder)[: setting.steps * setting.micro_batch]
    rows = [{"input_ids": tokens.tolist(), "completion_mask": mask.astype(int).tolist()} for tokens, mask in used]
    model, batch_size = setting.model(folder), setting.micro_batch
    times = Times()

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.end(0.0)

    options: Any = {"loss_type": "dft", "completion_only_loss": True, "max_length": None, "max_grad_norm": 1.0, "lr_scheduler_type": "constant"}
    quiet: Any = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    plain: Any = {"gradient_checkpointing": False, "train_sampling_strategy": "sequential", "max_steps": setting.steps}
    plain |= {"use_cpu": setting.device == "cpu", "bf16": setting.half}
    arguments = SFTConfig(str(folder / "trl"), per_device_train_batch_size=batch_size, learning_rate=LEARNING_RATE, **options, **quiet, **plain)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
    trainer = SFTTrainer(model, arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Clock()])
    trainer.train()
    return {**times.report(), "loss": next(row["loss"] for row in trainer.state.log_history if "loss" in row)}


def measure(variant: str, folder: Path, setting: Setting) -> dict[str, Any]:
    torch.set_num_threads(setting.threads)
    if variant.startswith("ours"):
        return ours(folder, setting, watched=variant != "ours")
    return bare(folder, setting) if variant == "bare" else trl(folder, setting)


def model_flops(shape: str, tokenizer: str, length: int) -> float:
    """FLOPs of a training token in documents of one length: 6 a parameter, plus causal attention."""
    from lit_talr.data.tokenizer import load_tokenizer
    from lit_talr.modeling.loading import load_model

    with torch.device("meta"):
        model = load_model(None, None, SHAPES[shape], len(load_tokenizer(tokenizer)), None)
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 6 * sum(weight.numel() for weight in model.parameters()) + 6 * config.num_hidden_layers * config.num_attention_heads * width * length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", help="rows of MedCalc-Bench")
    parser.add_argument("--test", help="likewise, those of the test set, whose notes are left out of training")
    parser.add_argument("--tokenizer", help="a folder")
    parser.add_argument("--documents", metavar="4x1024", help="instead of MedCalc-Bench's rows: random ones, and how many of what length are a micro-batch")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--packing", action="store_true", help="ours, in one row")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument(
        "--peak-tflops", type=float, default=989, help="of the device, for the share of model FLOPs with --documents; of an H100 and H200 in bf16"
    )
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=15, help="of each process; the first three are left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one in this process, and print JSON")
    parser.add_argument("--folder", type=Path, help="with --variant: what was prepared")
    parser.add_argument("--setting", type=json.loads, help="likewise")
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.folder, Setting(**arguments.setting))))
        return
    micro_batch = int(arguments.documents.partition("x")[0]) if arguments.documents else 4
    setting = Setting(arguments.steps, arguments.threads, arguments.device, micro_batch, arguments.packing, arguments.attention)
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = arguments.train, arguments.test, arguments.tokenizer, arguments.max_length
        prepare(folder, *sources, arguments.shape, arguments.documents, arguments.steps * micro_batch)
        tokens = [int(mask.sum()) for _, mask, _ in batches(folder, setting)][3:]
        for _ in range(arguments.rounds):
            for variant in VARIANTS:
                words = [f"--variant={variant}", f"--folder={folder}", f"--setting={json.dumps(asdict(setting))}"]
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
    if arguments.documents:
        flops = model_flops(arguments.shape, arguments.tokenizer, int(arguments.documents.partition("x")[2]))
        for variant in VARIANTS:
            speed = statistics.mean(tokens) / statistics.median(medians[variant])
            print(
                f"{'' if variant != VARIANTS[0] else chr(10)}{variant}: {speed * flops / arguments.peak_tflops / 1e12:.1%} of {arguments.peak_tflops:g} TFLOP/s"
            )
    own, floor, other = (found[variant][0] for variant in ("ours", "bare", "trl"))
    print(f"\nLosses of step 1: TALR, ours / bare - 1 = {own['loss'] / floor['loss'] - 1:.1e}; DFT, TRL / bare - 1 = {other['loss'] / floor['dft'] - 1:.1e}")
    ratios = [own / theirs for own, theirs in zip(medians["ours"], medians["trl"], strict=True)]
    print(f"Ours / TRL: time {statistics.median(ratios):.2f}, memory {memory['ours'] / memory['trl']:.2f}")


if __name__ == "__main__":
    main()
