"""Adapters by PEFT: the kinds, each a few options that make its configuration."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import BOFTConfig, LoraConfig, OFTConfig, OSFConfig, PeftConfig
from torch import nn

from lit_talr.utils.errors import check_in, check_least

INITS = r"gaussian|orthogonal|pissa(_niter_\d+)?|olora"
FROM_DATA = ("eva", "corda", "lora_ga")
"""Those of PEFT that read data before training."""


class Adapter(ABC):
    """Is trained in place of a model's own weights: a subclass holds its options, and makes PEFT's configuration of them.

    A subclass is a frozen dataclass, and its options are stored under their own names, so that runs record them.
    """

    targets: tuple[str, ...] | None = None
    """Linear layers of the decoder that are adapted, by the last part of their name; all by default."""

    @abstractmethod
    def config(self, layers: Mapping[str, nn.Linear]) -> PeftConfig:
        """Returns PEFT's configuration, of any kind that can be merged into the weights, with ``target_modules=list(layers)``.

        Args:
            layers: The layers that are adapted, by their names in the model.

        Raises:
            ValueError: For options that do not fit these layers.
        """


def check_targets(adapter: Adapter) -> None:
    """Refuses an empty choice of layers."""
    if adapter.targets == ():
        raise ValueError("`adapter.targets` must name at least one layer, got none; leave it out for all of the decoder's.")


def describe_adapter(adapter: Any, options: str) -> str:
    """One line for the terminal and the model card."""
    return f"{type(adapter).__name__}({options}, {'all linear layers' if adapter.targets is None else ', '.join(adapter.targets)})"


@dataclass(frozen=True)
class LoRA(Adapter):
    """``W = W_0 + s B A``: small matrices A and B are trained next to each frozen weight W_0 (Hu et al., arXiv:2106.09685); ``s = alpha / r``.

    The paper's settings are not known; r = alpha = 64 without dropout are FLOW's (arXiv:2502.02797). The paper runs LoRA at the learning rates of full
    fine-tuning, where it hardly learns; rates a hundred times larger are usual.

    PiSSA and OLoRA begin with ``A_0, B_0`` computed from W_0, and PEFT subtracts ``s B_0 A_0`` from the frozen weight. Here it is subtracted from the
    adapter, ``W = W_0 + s (B A - B_0 A_0)``, which is the same model: W_0 stays the base model's, and the checkpoint has A_0 and B_0, whatever was drawn
    for them. ``adapter/`` then has a plain LoRA of rank 2 r.

    Args:
        r: Rank, at least 1.
        alpha: The update is scaled by alpha / r; at least 1.
        dropout: Dropout on the adapters' input, in [0, 1).
        targets: Linear layers of the decoder that get an adapter, by the last part of their name; all by default, never the head. The experts of a
            mixture are no linear layers, so there it must be given.
        use_rslora: Scale by alpha / sqrt(r), so that the update does not shrink with the rank (rsLoRA, Kalajdzievski, arXiv:2312.03732).
        use_dora: Train the norm of each row of W apart, ``W = m (W_0 + s B A) / ||W_0 + s B A||`` (DoRA, Liu et al., arXiv:2402.09353). PEFT carries no
            gradient through the norm, as the paper proposes.
        init_lora_weights: How A and B begin. By default A is uniform (Kaiming) and B zero. ``gaussian``: A is normal. ``orthogonal``: rows of A and columns
            of B such that B A = 0; for an even rank. ``pissa``: the r largest singular directions of W_0 (Meng et al., arXiv:2404.02948), or by a fast
            randomised SVD ``pissa_niter_N`` with N iterations. ``olora``: the first r columns of its QR decomposition (Büyükakyüz, arXiv:2406.01775).

    Raises:
        ValueError: For a value out of range, for DoRA with PiSSA or OLoRA; once the model is loaded, for a name that is not a linear layer of its decoder,
            and for PiSSA and OLoRA of a rank larger than a weight.
    """

    r: int = 64
    alpha: int = 64
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: str | None = None

    def __post_init__(self) -> None:
        check_least("adapter.r", self.r, 1)
        check_least("adapter.alpha", self.alpha, 1)
        check_in("adapter.dropout", self.dropout, "[0, 1)")
        check_targets(self)
        init = self.init_lora_weights
        if init in FROM_DATA:
            raise ValueError(f"`adapter.init_lora_weights: {init}` reads data before training, which is not supported; use pissa, olora, or leave it out.")
        if init is not None and not re.fullmatch(INITS, init):
            raise ValueError(
                f"`adapter.init_lora_weights` must be gaussian, orthogonal, pissa, pissa_niter_N for N iterations, or olora, or left out, got {init!r}."
            )
        if init == "orthogonal" and self.r % 2:
            raise ValueError(f"`adapter.r` must be even with `init_lora_weights: orthogonal`, got {self.r}.")
        if self.from_weights and self.use_dora:
            raise ValueError(f"`adapter.use_dora` and `adapter.init_lora_weights: {init}` exclude each other; leave one out.")

    @property
    def from_weights(self) -> bool:
        """Whether A and B begin with a part of the frozen weight."""
        return str(self.init_lora_weights).startswith(("pissa", "olora"))

    def config(self, layers: Mapping[str, nn.Linear]) -> LoraConfig:
        for name, layer in layers.items() if self.from_weights else ():
            if self.r > (most := min(layer.weight.shape)):
                raise ValueError(f"`adapter.r` must be at most {most} with `init_lora_weights: {self.init_lora_weights}`, the rank of `{name}`, got {self.r}.")
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=self.init_lora_weights or True,  # type: ignore[arg-type]
            target_modules=list(layers),
            bias="none",
            task_type="CAUSAL_LM",  # type: ignore[arg-type]
        )

    def __str__(self) -> str:
        more = [name for name in ("use_rslora", "use_dora") if getattr(self, name)] + ([self.init_lora_weights] if self.init_lora_weights else [])
        return describe_adapter(self, ", ".join([f"r={self.r}, alpha={self.alpha}, dropout={self.dropout:g}", *more]))


@dataclass(frozen=True)
class OFT(Adapter):
    """``W = W_0 R``, R being block-diagonal and orthogonal, so that the angles between rows of W stay those of W_0 (Qiu et al., arXiv:2306.07280).

    Each block is ``(I + Q)(I - Q)^-1`` of a trained skew-symmetric Q, which begins with 0. The rows of W keep their norms, and W its singular values.

    Args:
        block_size: Size of the blocks, at least 2; it must divide the number of inputs of every layer that is adapted.
        use_cayley_neumann: Replace the inverse by a series of five terms (OFTv2, arXiv:2506.19847), which is faster; R is then only nearly orthogonal.
        targets: Linear layers of the decoder that are adapted, by the last part of their name; all by default, never the head.

    Raises:
        ValueError: For a value out of range; once the model is loaded, for a size that does not divide a layer's, and for a name that is no linear layer of
            its decoder.
    """

    block_size: int = 32
    use_cayley_neumann: bool = True
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_least("adapter.block_size", self.block_size, 2)
        check_targets(self)

    def config(self, layers: Mapping[str, nn.Linear]) -> OFTConfig:
        check_blocks(self.block_size, layers)
        return OFTConfig(
            oft_block_size=self.block_size,
            use_cayley_neumann=self.use_cayley_neumann,
            target_modules=list(layers),
            task_type="CAUSAL_LM",  # type: ignore[arg-type]
        )

    def __str__(self) -> str:
        return describe_adapter(self, f"block_size={self.block_size}, {'Cayley-Neumann' if self.use_cayley_neumann else 'Cayley'}")


@dataclass(frozen=True)
class BOFT(Adapter):
    """``W = diag(s) W_0 R``: OFT with a trained scale for each output, and R by exact Cayley blocks (Liu et al., arXiv:2311.06243).

    There is one butterfly factor. PEFT computes more of them only by a CUDA extension that it compiles at run time, and keeps for each layer a matrix of the
    size inputs x inputs in any case; ``OFT`` needs far less memory.

    Args:
        block_size: Size of the blocks, at least 2; it must divide the number of inputs of every layer that is adapted.
        targets: Linear layers of the decoder that are adapted, by the last part of their name; all by default, never the head.

    Raises:
        ValueError: As ``OFT``.
    """

    block_size: int = 4
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_least("adapter.block_size", self.block_size, 2)
        check_targets(self)

    def config(self, layers: Mapping[str, nn.Linear]) -> BOFTConfig:
        check_blocks(self.block_size, layers)
        return BOFTConfig(boft_block_size=self.block_size, target_modules=list(layers), task_type="CAUSAL_LM")  # type: ignore[arg-type]

    def __str__(self) -> str:
        return describe_adapter(self, f"block_size={self.block_size}")


@dataclass(frozen=True)
class OSF(Adapter):
    """``W = U_k S_k V_k + U S V``: the k largest singular directions of W_0 are frozen, the rest of its SVD is trained (Nayak et al., arXiv:2504.07097).

    PEFT projects the gradients of U and V so that they are orthogonal to U_k and V_k. It does not project the steps: AdamW divides each number by its own
    scale, which turns the step back into the frozen directions. After five steps of a small model some 12 % of the squared change of U and V lies in them
    (a test measures it), after SGD's nothing. U_k S_k V_k itself never moves.

    It trains nearly as many numbers as full fine-tuning, and its checkpoint has U, S and V twice, as they are and as they began. The SVD of every layer
    takes a while at the start.

    Args:
        effective_rank: k, a number of directions, or a share in (0, 1) of the smaller side of each weight; half of it by default.
        targets: Linear layers of the decoder that are adapted, by the last part of their name; all by default, never the head.

    Raises:
        ValueError: For a value out of range; once the model is loaded, for a rank that leaves a layer nothing to freeze or to train, and for a name that is
            no linear layer of its decoder.
    """

    effective_rank: int | float | None = None
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.effective_rank, float):
            check_in("adapter.effective_rank", self.effective_rank, "(0, 1)", "a whole number counts directions")
        elif self.effective_rank is not None:
            check_least("adapter.effective_rank", self.effective_rank, 1)
        check_targets(self)

    def config(self, layers: Mapping[str, nn.Linear]) -> OSFConfig:
        for name, layer in layers.items():
            least = min(layer.weight.shape)
            frozen = int(least * self.effective_rank) if isinstance(self.effective_rank, float) else self.effective_rank or least // 2
            if not 0 < frozen < least:
                raise ValueError(f"`adapter.effective_rank` must freeze 1 to {least - 1} of the {least} singular directions of `{name}`, got {frozen}.")
        return OSFConfig(effective_rank=self.effective_rank, target_modules=list(layers), task_type="CAUSAL_LM")  # type: ignore[arg-type]

    def __str__(self) -> str:
        return describe_adapter(self, f"effective_rank={'half' if self.effective_rank is None else self.effective_rank}")


def check_blocks(size: int, layers: Mapping[str, nn.Linear]) -> None:
    """Refuses blocks that do not fill a layer; PEFT would choose another size."""
    for name, layer in layers.items():
        if layer.in_features % size:
            raise ValueError(
                f"`adapter.block_size` must divide the {layer.in_features} inputs of `{name}`, got {size}; give a divisor, or leave the layer out of `targets`."
            )
