"""Time and memory of the language-model head's NLL, forward and backward: python -m benchmarks.head [--tokens 2048] [--width 896] [--vocab 32768]

``ours`` recomputes logits in backward; ``ours_kept`` stores them up to 256 MiB, as a run does. ``trl_tiles`` is the code of TRL's SFTTrainer (pip install
lit_talr[bench]), ``liger`` Liger's function (pip install lit-talr[liger]), which on a CPU is plain torch. ``--chunks`` measures ``ours`` with other chunk
sizes instead. Every variant runs in its own process. Time is the median of five calls after a warm-up call. Memory is the increase of the process's peak
resident memory (``ru_maxrss``) by the calls, without the arguments, with the gradients of hidden states and weight; on CUDA, of the allocator's peak.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from lit_talr.kernels.liger_nll import liger_nll
from lit_talr.kernels.token_nll import IGNORE_INDEX, token_nll

Variant = Callable[[Tensor, Tensor, Tensor], Tensor]


def kept_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(hidden, weight).float(), labels, reduction="none", ignore_index=IGNORE_INDEX)


def kept_logits_supervised(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    mask = labels != IGNORE_INDEX
    return torch.zeros(len(labels), device=labels.device).masked_scatter(mask, kept_logits(hidden[mask], weight, labels[mask]))


def torch_chunks(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """torch's kernel on the supervised tokens; in bf16 its NLLs are rounded, so ``torch_nll`` refuses it."""
    mask, options = labels != IGNORE_INDEX, torch.nn.LinearCrossEntropyOptions(batch_chunk_size=1024 if hidden.is_cuda else 512)
    found = functional.linear_cross_entropy(hidden[mask], weight, labels[mask], reduction="none", options=options)
    return torch.zeros(len(labels), dtype=found.dtype, device=labels.device).masked_scatter(mask, found)


def liger(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return liger_nll(hidden, weight, labels).nll


def trl_tiles(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """TRL's kernel as TRL calls it: on CUDA on the supervised tokens, elsewhere on all."""
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    mask = labels != IGNORE_INDEX
    tokens = (hidden[mask], labels[mask]) if hidden.is_cuda else (hidden, labels.clamp(min=0))
    found = -_ChunkedLogProbFunction.apply(tokens[0], weight, None, tokens[1], 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",))[0]
    return torch.zeros(len(labels), device=labels.device).masked_scatter(mask, found) if hidden.is_cuda else found.masked_fill(~mask, 0)


def ours(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return token_nll(hidden, weight, labels, kept_bytes=0).nll


def ours_kept(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return token_nll(hidden, weight, labels).nll


def ours_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return token_nll(hidden, weight, labels, kept_bytes=0, entropy=True).nll


def chunks_of(chunk_tokens: int) -> Variant:
    return lambda hidden, weight, labels: token_nll(hidden, weight, labels, kept_bytes=0, chunk_tokens=chunk_tokens).nll


VARIANTS: dict[str, Variant] = {
    variant.__name__: variant
    for variant in (kept_logits, kept_logits_supervised, torch_chunks, trl_tiles, liger, ours, ours_kept, ours_entropy)
    if (variant is not torch_chunks or hasattr(functional, "linear_cross_entropy"))
    and all(variant is not needy or find_spec(package) for needy, package in ((trl_tiles, "trl"), (liger, "liger_kernel")))
}
CHUNKS: dict[str, Variant] = {f"chunks of {tokens}": chunks_of(tokens) for tokens in (64, 128, 256, 512, 1024, 2048, 4096)}


def peak(device: str) -> float:
    """Peak memory in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def measure(variant: Variant, tokens: int, width: int, vocab: int, threads: int, device: str, dtype: str) -> tuple[float, float]:
    """Seconds and MiB of one forward and backward pass."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    options = {"device": device, "dtype": getattr(torch, dtype)}
    hidden, weight = torch.randn(tokens, width, **options), torch.empty(vocab, width, **options).normal_(std=0.02)
    labels = torch.randint(vocab, (tokens,), device=device)
    labels[::4] = IGNORE_INDEX
    token_weights = torch.rand(tokens, device=device)
    # One-time costs of a process (imports, thread pools, matrix-product workspaces) belong to no variant.
    for once in (kept_logits, variant):
        once(hidden[:64].clone().requires_grad_(), weight[:64].clone().requires_grad_(), labels[:64].clamp(max=63)).sum().backward()
    hidden.requires_grad_(), weight.requires_grad_()
    before, seconds = peak(device), []
    for _ in range(6):
        start = time.perf_counter()
        (variant(hidden, weight, labels) * token_weights).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        hidden.grad = weight.grad = None
    return statistics.median(seconds[1:]), peak(device) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048, help="a quarter of them is ignored")
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--chunks", action="store_true")
    parser.add_argument("--variant", choices=[*VARIANTS, *CHUNKS], help="measure this one in this process, and print JSON")
    arguments = vars(parser.parse_args())
    variant, variants = arguments.pop("variant"), ["kept_logits", *CHUNKS] if arguments.pop("chunks") else list(VARIANTS)
    if variant is not None:
        print(json.dumps(measure({**VARIANTS, **CHUNKS}[variant], **arguments)))
        return
    print(f"{arguments}, torch {torch.__version__}\n\n| variant | s | ratio | MiB | ratio |\n|---|---|---|---|---|")
    options = [f"--{name}={value}" for name, value in arguments.items()]
    baseline: tuple[float, float] | None = None
    for name in variants:
        output = subprocess.run([sys.executable, "-m", "benchmarks.head", f"--variant={name}", *options], check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds, memory = json.loads(output)
        baseline = baseline or (seconds, memory)
        print(f"| {name} | {seconds:.2f} | {seconds / baseline[0]:.2f} | {memory:.0f} | {memory / baseline[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
