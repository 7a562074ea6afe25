"""Writes docs/remedies.md from the code: ``python docs/make_remedies.py`` (``make docs``). A test checks that the page is up to date."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml
from docstring_parser import parse
from torch import nn
from torch.optim import AdamW, Optimizer

import lit_talr.losses
from lit_talr.losses import LossStrategy, Standard
from lit_talr.losses.anchored import Anchored
from lit_talr.losses.base import RUNNING_BASE, Setting
from lit_talr.losses.ewc import EWC
from lit_talr.training.hft import HalfFineTuning
from lit_talr.training.mofo import MoFO

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "remedies.md"
ORDER = ["Standard", "TALR", "L2", "FLOW"]  # the paper's first, then the alphabet
SETTINGS = {
    "adapters": Setting(adapter=True),
    "ZeRO": Setting(sharded=True),
    "ZeRO-3 and FSDP2": Setting(sharded=True, sharded_weights=True),
    "weights in bf16 (`bf16-true`)": Setting(precision="bf16-true"),
    "random weights": Setting(pretrained=False),
}
FIELDS = {
    "top_entropy": "entropy of the top 20",
    "base_nll": "NLL under the base model",
    "base_kl": "KL to the base model",
    "masked_kl": "KL to the base model without the label",
    "entropy": "entropy",
}
HEAD = """# The remedies

Generated from the code by `make docs`: the text of each loss is its docstring. `lit-talr fit --model.loss.help NAME` prints its formula and options.

The loss of an optimizer step is `(1/N) * sum of w * nll` over its N supervised tokens, on all ranks and in all micro-batches. p = exp(-nll) is a token's
probability under the model in training; p_0 and nll_0 are the base model's, that is, the model's before training. Weights carry no gradient; ASFT, KL and
MaskTheTarget add a term that does. Every loss works with every data set, model, precision and strategy of `configs/` unless it says otherwise. What a loss
cannot do is refused by name before anything is loaded. Losses that hold another one (`EWC`, `KL`, `L2`, `MaskTheTarget`, `Truncation`) compose.

The NLL under the base model is computed once before training, from `model.pretrained` (never from the weights of a resumed run), by all ranks together.
It is cached in `.cache/` next to the run folder, under the hash of weights, rows as tokens and precision, and the next run with the same reads it.

Some remedies are not losses. [Adapters](running.md#adapters) compose with any loss except L2 and EWC. [FINCH, MoFO and half
fine-tuning](running.md#schedules-and-optimizers) are a schedule and two optimizers, `-c configs/finch.yaml`, `mofo.yaml` and `hft.yaml`; they compose with any
loss. Others come after training:

| after training | weights | command |
|---|---|---|
| Wise-FT | theta_0 + alpha (theta - theta_0) | `lit-talr merge --base A --tuned runs/mine/export --alpha 0.5 --out C` |
| LiNeS | the same, with alpha + (1 - alpha) l / (L - 1) in layer l of L | the same with `--method lines` |
| soup | the mean of several | `lit-talr merge --tuned [A,B] --out C` |
| exponential mean | m = theta_1, then m <- decay m + (1 - decay) theta_k over a run's checkpoints | `lit-talr export --ckpt runs/mine --decay 0.9 --out C` |
| BEMA | the same from the base model on, its decay falling with the step, plus a part of the update | `lit-talr export --ckpt runs/mine --decay bema --out C` |
"""


def classes() -> list[type[LossStrategy]]:
    """All loss strategies, in the page's order."""
    members = [getattr(lit_talr.losses, name) for name in lit_talr.losses.__all__]
    strategies = [member for member in members if isinstance(member, type) and issubclass(member, LossStrategy) and member is not LossStrategy]
    return sorted(strategies, key=lambda loss: (ORDER.index(loss.__name__) if loss.__name__ in ORDER else len(ORDER), loss.__name__.lower()))


def make(loss: type[LossStrategy]) -> LossStrategy:
    """Build a loss with its defaults, around Standard where it holds another one."""
    return loss(Standard()) if "loss" in inspect.signature(loss).parameters else loss()  # type: ignore[call-arg]


def refusal(loss: type[LossStrategy], setting: Setting) -> str | None:
    """The sentence with which a loss refuses a setting, or None."""
    try:
        make(loss).check(setting)
    except ValueError as error:
        return str(error)
    return None


def configs() -> dict[str, list[str]]:
    """Map each class to the files of configs/loss that name it."""
    files: dict[str, list[str]] = {}
    for path in sorted((ROOT / "configs" / "loss").glob("*.yaml")):
        files.setdefault(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["loss"]["class_path"], []).append(path.name)
    return files


def one_line(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


def overview() -> list[str]:
    """The table of all losses, one line each."""
    lines = ["| loss | in one line | needs | same gradient however a step is split | refuses |", "|---|---|---|---|---|"]
    for loss in classes():
        page = parse(inspect.getdoc(loss) or "")
        needs = ", ".join(FIELDS[need] for need in sorted(loss.needs)) or "-"
        refuses = ", ".join(name for name, setting in SETTINGS.items() if refusal(loss, setting)) or "-"
        holds_another = "loss" in inspect.signature(loss).parameters
        same = "that of the loss it holds" if holds_another else "yes" if make(loss).batching_invariant else "not by default"
        name, summary = loss.__name__, one_line(page.short_description).rstrip(".")
        lines.append(f"| [{name}](#{name.lower()}) | {summary} | {needs} | {same} | {refuses} |".replace("||", "\\|\\|"))
    return lines


def state_bytes(optimizer: Optimizer, weight: nn.Parameter) -> float:
    """Bytes of the optimizer's state for each element of its only weight, after two steps."""
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    tensors = [value for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.shape == weight.shape]
    return sum(value.nbytes for value in tensors) / weight.numel()


def copies(loss: LossStrategy) -> float:
    """Bytes that a penalty keeps for each weight in float32, beyond AdamW's."""
    weight = nn.Parameter(torch.ones(8, 8))
    if isinstance(loss, EWC):
        loss.fisher = torch.ones_like
    plain, penalised = AdamW([weight]), AdamW([weight])
    loss.attach(penalised)
    kept = 0 if not isinstance(loss, Anchored) or loss.scale(weight) is None else weight.element_size()
    return state_bytes(penalised, weight) - state_bytes(plain, weight) + kept


def needs() -> list[str]:
    """The table of what each remedy needs beyond Standard."""
    rows: list[Sequence[str]] = []
    for loss in classes():
        one = make(loss)
        runs, looks, held = one.needs & RUNNING_BASE, "base_nll" in one.needs, copies(one)
        memory = f"{held:.0f} bytes a weight" if held else "the base model beside the trained one; none with adapters" if runs else "-"
        passes = "the base model on every batch" if runs else "the base model on the training rows, once" if looks else "-"
        if isinstance(one, EWC):
            passes = f"{one.fisher_rows} examples with gradient, once"
        rows.append((f"[{loss.__name__}](#{loss.__name__.lower()})", memory, passes, "-"))
    weight = nn.Parameter(torch.ones(8, 8))
    adam = state_bytes(AdamW([weight]), weight)
    names = [("layers.0.mlp.up_proj.weight", weight), ("layers.0.mlp.down_proj.weight", nn.Parameter(torch.ones(1)))]
    optimizers = {"MoFO": MoFO([weight]), "half fine-tuning": HalfFineTuning(names)}
    for name, optimizer in optimizers.items():
        more = state_bytes(optimizer, weight) - adam
        rows.append((f"[{name}](running.md#schedules-and-optimizers)", f"{more:.0f} bytes a weight" if more else "-", "-", "-"))
    rows += [
        ("[adapters](running.md#adapters)", "less: only adapters have gradients and optimizer state", "-", "-"),
        ("[replay](running.md#other-remedies)", "-", "as many more tokens as its share says", "general rows"),
        ("[own samples](running.md#other-remedies)", "-", "the same, and sampling before training, once", "-"),
        ("Wise-FT, LiNeS, soup, exponential mean, BEMA", "-", "-", "finished runs or their checkpoints"),
    ]
    head = "What remedies need beyond Standard with AdamW; those that are not named need nothing:"
    lines = ["", head, "", "| remedy | memory | passes | data |", "|---|---|---|---|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows if {*row[1:]} != {"-"}]


def options(loss: type[LossStrategy]) -> list[str]:
    """The table of a loss's options."""
    texts = {parameter.arg_name: one_line(parameter.description) for parameter in parse(inspect.getdoc(loss) or "").params}
    if not texts:
        return []
    types: dict[str, Any] = get_type_hints(loss.__init__)
    lines = ["", "| option | default | |", "|---|---|---|"]
    for name, parameter in inspect.signature(loss).parameters.items():
        default = "required" if parameter.default is parameter.empty else "-" if parameter.default is None else f"`{parameter.default}`"
        choices = getattr(types[name], "__args__", ())
        among = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices and all(isinstance(choice, str) for choice in choices) else ""
        lines.append(f"| `{name}` | {default} | {texts[name]}{among} |")
    return lines


def section(loss: type[LossStrategy]) -> list[str]:
    """The section of one loss."""
    page = parse(inspect.getdoc(loss) or "")
    paragraphs = [one_line(page.short_description), *map(one_line, (page.long_description or "").split("\n\n"))]
    lines = ["", f"## {loss.__name__}", ""]
    for paragraph in paragraphs:
        for word in ("Source:", "Use:"):
            paragraph = f"**{word}** {paragraph.removeprefix(word).strip()}" if paragraph.startswith(word) else paragraph
        lines += [paragraph, ""]
    lines += [f"`{'`, `'.join(f'configs/loss/{name}' for name in configs().get(loss.__name__, []))}`" or "No file of its own."]
    lines += options(loss)
    sentences = [sentence for setting in SETTINGS.values() if (sentence := refusal(loss, setting))]
    return lines + (["", "Refused, in these words:", "", *(f"- {sentence}" for sentence in sentences)] if sentences else [])


def page() -> str:
    """The whole of docs/remedies.md."""
    return "\n".join([HEAD, *overview(), *needs(), *(line for loss in classes() for line in section(loss)), ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
