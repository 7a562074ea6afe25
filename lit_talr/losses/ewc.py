"""Elastic weight consolidation: an L2 penalty in which each weight counts by its Fisher information, added to any loss."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor
from torch.optim import Optimizer

from lit_talr.losses.anchored import Anchored
from lit_talr.losses.base import LossStrategy, Setting
from lit_talr.utils.errors import check_least

FisherFrom = Literal["base", "train"]


class EWC(Anchored):
    """``loss + coefficient / 2 * sum of F * (theta - theta_0)^2``, F the diagonal Fisher information at the base model's weights theta_0.

    F is the mean over examples of the squared gradient of one example's summed token NLL, ``-log p(response)``; never the square of a batch's gradient, in
    which the examples would cancel. The sum makes ``1/2 * sum of F d^2`` the diagonal's part of KL(base || model) of a whole example, in nats, to second order
    in d; a mean over tokens would count a token of a long example less. ``base`` takes 128-token sequences that the base model samples (temperature 1, all
    tokens, no stop), which is the Fisher information of its own distribution. ``train`` takes training rows and their supervised tokens (the empirical Fisher
    information). Validation and test rows are never used.

    F is computed once before training, in float32 and evaluation mode, without FlashAttention, one example at a time. The ranks share the examples, and each
    device needs 8 bytes a weight. F is cached in ``.cache`` next to the run folder, under the hash of weights, examples and options; the strategy and the
    precision of training do not matter (but for ``64-true``, whose F is float64). ZeRO-3 and FSDP2 have no whole model to compute it from, and read the cache.

    As for ``L2``, an optimizer hook adds the gradient ``coefficient * F * (theta - theta_0)`` to the fp32 weights that this rank's optimizer owns, after
    clipping. Each rank holds theta_0 and F of these weights only: 8 bytes a weight on top of AdamW's 16, which makes 24. theta_0 is in every checkpoint; F is
    read from the cache, or computed again. There is no option to keep them in bfloat16: unless the base model was published in it, rounding moves theta_0
    by up to 1/512 of each weight, more than fine-tuning moves most weights.

    Source: "Overcoming catastrophic forgetting in neural networks" (Kirkpatrick et al., arXiv:1612.00796), with the lambda of its penalty as coefficient.
    Sliogeris et al. (arXiv:2505.05946) sweep lambda up to 1e12 for a language model. Their code takes F from the test split of MMLU, and squares the gradient
    of a batch's mean; here it is neither. The default coefficient is ours: about 0.1 nats for each nat of KL per token of a sample.

    Use: to hold on to the weights that the base model's text depends on, and leave the others free; it costs two more copies of the weights.

    Args:
        loss: The loss to regularise, ``Standard`` or any other.
        coefficient: lambda, at least 0; at 0 training is bitwise that of ``loss``, and no F is computed.
        fisher_rows: Number of examples for F, at least 1; of training rows at most all.
        fisher_from: Where they come from: ``base``, samples of the base model, or ``train``, training rows (a fixed random choice).

    Raises:
        ValueError: For a value out of range; at start-up with LoRA, random weights, weights that are kept in half precision, and under ZeRO-3 and FSDP2
            where F is not in the cache.
    """

    def __init__(self, loss: LossStrategy, coefficient: float = 1e-3, fisher_rows: int = 200, fisher_from: FisherFrom = "base") -> None:
        super().__init__(loss, coefficient)
        check_least("fisher_rows", fisher_rows, 1)
        if fisher_from not in get_args(FisherFrom):
            raise ValueError(f"`fisher_from` must be one of {', '.join(get_args(FisherFrom))}, got {fisher_from!r}.")
        self.fisher_rows, self.fisher_from = fisher_rows, fisher_from
        self.fisher: Callable[[Tensor], Tensor] | None = None
        """Gives F of this rank's part of a tensor that the optimizer steps; set before ``attach``."""

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not setting.pretrained:
            raise ValueError(
                "EWC holds on to what the base model knows, and random weights know nothing; give `model.pretrained`, or use the wrapped loss alone."
            )

    def attach(self, optimizer: Optimizer) -> None:
        if self.coefficient and self.fisher is None:
            raise ValueError("EWC needs the Fisher information of the weights, which `DomainSFT` computes; elsewhere set `fisher` before `attach`.")
        super().attach(optimizer)

    def scale(self, weight: Tensor) -> Tensor:
        assert self.fisher is not None
        return self.fisher(weight)
