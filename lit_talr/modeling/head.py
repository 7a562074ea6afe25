"""The head of a language model, called with labels or with a base model in place of keeping logits."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lit_talr.kernels.liger_nll import liger_nll
from lit_talr.kernels.token_kl import token_kl
from lit_talr.kernels.token_nll import TokenNLL, token_nll
from lit_talr.kernels.torch_nll import torch_nll

HeadKernel = Literal["own", "torch", "liger"]
"""The function that computes the NLL and its gradient in training: ``lit_talr.kernels``' own, torch's or Liger's."""


class BaseLogits(NamedTuple):
    """The parts that the base model's logits are computed from, detached."""

    hidden: Tensor  # [..., D], the output of its decoder
    weight: Tensor  # [V, D], the weight of its head
    bias: Tensor | None  # [V]


class Head(nn.Linear):
    """A language model's head that can also be called with labels; ``head(hidden)`` still returns logits.

    ``from_linear`` changes the class of an existing ``Linear``. So the weight has one owner, the state dict keeps its keys, and hooks of ZeRO and FSDP stay.
    """

    softcap: float | None
    scale: float
    kernel: HeadKernel
    kept_bytes: int

    @classmethod
    def from_linear(cls, linear: nn.Linear, softcap: float | None, scale: float, kernel: HeadKernel, kept_bytes: int) -> "Head":
        linear.__class__ = cls
        linear.softcap, linear.scale, linear.kernel, linear.kept_bytes = softcap, scale, kernel, kept_bytes  # type: ignore[assignment]
        return linear  # type: ignore[return-value]

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        correct: bool = False,
        entropy: bool = False,
        top_entropy: bool = False,
        base: BaseLogits | None = None,
    ) -> Any:
        """Returns logits ``[..., V]``; with labels ``[N]``, none ignored, the ``TokenNLL`` of hidden ``[N, D]``; with a base model the ``TokenKL``.

        With both, the divergence leaves the labels out.
        """
        if base is not None:
            caps = {"softcap": self.softcap, "scale": self.scale, "base_softcap": self.softcap, "base_scale": self.scale}
            return token_kl(hidden, self.weight, base.hidden, base.weight, self.bias, base.bias, labels, **caps)  # type: ignore[arg-type]
        if labels is None:
            return super().forward(hidden)
        own = partial(token_nll, kept_bytes=self.kept_bytes)
        kernels: dict[HeadKernel, Callable[..., TokenNLL]] = {"own": own, "torch": torch_nll, "liger": liger_nll}
        kernel = kernels[self.kernel] if torch.is_grad_enabled() else own
        options: dict[str, Any] = {"softcap": self.softcap, "scale": self.scale, "correct": correct, "entropy": entropy, "top_entropy": top_entropy}
        return kernel(hidden, self.weight, labels, self.bias, all_supervised=True, **options)

    def try_kernel(self, device: torch.device, dtype: torch.dtype, entropy: bool, top_entropy: bool) -> None:
        """Scores one token with a small head of this kind, forward and backward; draws no random numbers.

        Raises:
            ValueError: For something that the kernel cannot do.
        """
        if self.kernel == "liger" and device.type != "cuda":
            raise ValueError("`model.compute.head_kernel: liger` is for Hopper GPUs (H100, H200); use the head `own`.")
        small = nn.utils.skip_init(nn.Linear, 64, 128, bias=self.bias is not None, device=device, dtype=dtype)
        for parameter in small.parameters():
            nn.init.zeros_(parameter)
        head = Head.from_linear(small, self.softcap, self.scale, self.kernel, self.kept_bytes)
        label = torch.zeros(1, dtype=torch.int64, device=device)
        head(torch.ones(1, 64, dtype=dtype, device=device), label, entropy=entropy, top_entropy=top_entropy).nll.sum().backward()
