"""The divergence of two heads against the naive formula in float64: values, gradients, and what is held."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_talr.kernels.token_kl import TokenKL, token_kl

VOCABULARY, WIDTH, OTHER_WIDTH, CHUNK = 311, 40, 24, 32
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")])]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"softcap": 5.0, "base_softcap": 5.0},
    {"scale": 0.25, "base_scale": 0.5},
    {"softcap": 3.0, "scale": 2.0, "base_scale": 2.0},
]
PLAIN, CAPPED, SCALED, BOTH = OPTIONS
ORDER = ("hidden", "weight", "base_hidden", "base_weight", "bias", "base_bias", "labels")


def naive(
    hidden: Tensor,
    weight: Tensor,
    base_hidden: Tensor,
    base_weight: Tensor,
    bias: Tensor | None = None,
    base_bias: Tensor | None = None,
    labels: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    base_softcap: float | None = None,
    base_scale: float = 1.0,
) -> TokenKL:
    logs = []
    for states, matrix, shift, cap, factor in (
        (hidden, weight, bias, softcap, scale),
        (base_hidden.detach(), base_weight.detach(), base_bias, base_softcap, base_scale),
    ):
        logits = factor * linear(states, matrix, shift)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if labels is not None:  # the others alone
            others = torch.arange(logits.shape[1], device=logits.device) != labels[:, None]
            logits = logits[others].view(len(logits), -1)
        logs.append((logits if cap is None else cap * torch.tanh(logits / cap)).log_softmax(1))
    model, base = logs[0], logs[1].detach()
    return TokenKL((base.exp() * (base - model)).sum(1), model.argmax(1) == base.argmax(1))


def inputs(
    num_tokens: int,
    bias: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    size: float = 1.0,
    apart: float | None = None,
    labels: bool = False,
) -> dict[str, Tensor]:
    """Arguments of two unrelated models, or of two that are ``apart`` by so much; with a label for each token, which leaves it out."""
    torch.manual_seed(num_tokens)
    found = {"hidden": size * torch.randn(num_tokens, WIDTH), "weight": torch.randn(VOCABULARY, WIDTH) / 3}
    if apart is None:
        found |= {"base_hidden": size * torch.randn(num_tokens, OTHER_WIDTH), "base_weight": torch.randn(VOCABULARY, OTHER_WIDTH) / 3}
    else:
        found |= {"base_hidden": found["hidden"] + apart * torch.randn(num_tokens, WIDTH), "base_weight": found["weight"].clone()}
    if bias:
        found |= {"bias": torch.randn(VOCABULARY), "base_bias": torch.randn(VOCABULARY)}
    arguments = {name: value.to(device, dtype).requires_grad_(not name.startswith("base")) for name, value in found.items()}
    return arguments | ({"labels": torch.randint(VOCABULARY, (num_tokens,), device=device)} if labels else {})


def results(function: Any, arguments: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """The divergence, and the gradients for token weights, the first one zero."""
    tokens = function(*(arguments.get(name) for name in ORDER), **options)
    token_weights = torch.rand(len(tokens.kl), generator=torch.Generator().manual_seed(0)).to(tokens.kl)
    token_weights[:1] = 0
    leaves = {name: value for name, value in arguments.items() if value.requires_grad}
    gradients = torch.autograd.grad((token_weights * tokens.kl).sum(), list(leaves.values()))
    return {"kl": tokens.kl.detach(), **dict(zip(leaves, gradients, strict=True))}


def exact(arguments: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    wide = {name: value.detach().double().requires_grad_(value.requires_grad) for name, value in arguments.items() if name != "labels"}
    return results(naive, arguments | wide, **options)


def errors(values: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """Norm of the difference over the norm."""
    return {name: float((value - reference[name]).norm() / reference[name].norm().clamp(min=1e-30)) for name, value in values.items()}


@pytest.mark.parametrize("labels", [False, True], ids=["all", "without-label"])
@pytest.mark.parametrize(
    ("num_tokens", "chunk_tokens", "bias", "options"),
    [
        (1, 32, True, PLAIN),
        (7, 1, False, CAPPED),
        (32, 32, True, SCALED),
        (41, 5, True, PLAIN),
        (43, 32, False, BOTH),
        (43, 1000, True, CAPPED),
        (129, 32, True, BOTH),
        (129, 32, False, SCALED),
    ],
)
def test_float32_is_the_naive_formula(num_tokens: int, chunk_tokens: int, bias: bool, options: dict[str, Any], labels: bool) -> None:
    arguments = inputs(num_tokens, bias, labels=labels)
    values, reference = results(token_kl, arguments, chunk_tokens=chunk_tokens, **options), exact(arguments, **options)
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert max(errors(values, reference).values()) <= 2e-6
    torch.testing.assert_close(values["kl"].double(), reference["kl"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labels", [False, True], ids=["all", "without-label"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_float64_is_the_naive_formula_to_its_rounding(options: dict[str, Any], labels: bool) -> None:
    arguments = inputs(43, bias=True, dtype=torch.float64, labels=labels)
    values = results(token_kl, arguments, chunk_tokens=CHUNK, **options)
    assert {value.dtype for value in values.values()} == {torch.float64}
    assert max(errors(values, exact(arguments, **options)).values()) <= 1e-13


@pytest.mark.parametrize("labels", [False, True], ids=["all", "without-label"])
@pytest.mark.parametrize("apart", [1e-4, 1e-3, 1e-2])
def test_small_divergences_keep_their_digits(apart: float, labels: bool) -> None:
    """Those of a fine-tuning at 1e-6: the naive formula in float32 is off by more than the whole."""
    arguments = inputs(129, apart=apart, labels=labels)
    reference = exact(arguments)["kl"]
    values = token_kl(*(arguments.get(name) for name in ORDER)).kl.detach()
    naive_values = results(naive, arguments)["kl"]
    assert float(values.min()) >= 0
    assert abs(float(values.mean() / reference.mean()) - 1) < 1e-3
    assert (values - reference).abs().max() < 0.02 * (naive_values - reference).abs().max() + 2e-8


@pytest.mark.parametrize("labels", [False, True], ids=["all", "without-label"])
def test_a_model_is_no_distance_from_itself(labels: bool) -> None:
    arguments = inputs(50, apart=0.0, labels=labels)
    tokens = token_kl(*(arguments.get(name) for name in ORDER), chunk_tokens=7)
    assert not tokens.kl.any() and tokens.agreement.all()
    assert not torch.autograd.grad(tokens.kl.sum(), arguments["weight"])[0].any()


def test_a_label_that_one_model_is_sure_of_leaves_the_ratios_of_the_others() -> None:
    """Raising the label's logit alone changes nothing, up to a probability of 1; the divergence over all tokens grows with it."""
    arguments = inputs(20, bias=True, labels=True)
    arguments["labels"] = torch.zeros(20, dtype=torch.int64)
    order = [arguments[name] for name in ORDER]
    before, plain = token_kl(*order).kl.detach(), token_kl(*order[:-1]).kl.detach()
    order[4] = (arguments["bias"].detach() + 1e4 * (torch.arange(VOCABULARY) == 0)).requires_grad_()
    after = token_kl(*order).kl
    torch.testing.assert_close(after.detach(), before, rtol=1e-6, atol=1e-6)
    assert (token_kl(*order[:-1]).kl > plain + 1).all()
    assert not torch.autograd.grad(after.sum(), order[4])[0][0], "the label's own logit is free"


def test_agreement_is_that_of_the_most_likely_tokens() -> None:
    arguments = inputs(129, apart=0.7)
    order = [arguments[name] for name in ORDER[:4]]
    found = token_kl(*order, chunk_tokens=CHUNK).agreement
    assert torch.equal(found, naive(*order).agreement) and 0 < int(found.sum()) < 129


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "options"), [(torch.bfloat16, PLAIN), (torch.bfloat16, BOTH), (torch.float16, CAPPED), (torch.float16, SCALED)], ids=str)
def test_half_precision_errs_no_more_than_the_naive_formula(dtype: torch.dtype, options: dict[str, Any], device: str) -> None:
    arguments = inputs(129, bias=True, dtype=dtype, device=device)
    values, reference = results(token_kl, arguments, chunk_tokens=CHUNK, **options), exact(arguments, **options)
    assert values["kl"].dtype == torch.float32 and values["weight"].dtype == dtype
    naive_errors = errors(results(naive, arguments, **options), reference)
    for name, error in errors(values, reference).items():
        assert error <= 1.1 * naive_errors[name], name


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_rounds_the_operands(device: str) -> None:
    arguments = inputs(129, bias=True, device=device)
    reference = exact({name: value.detach().bfloat16().requires_grad_(value.requires_grad) for name, value in arguments.items()})
    with torch.autocast(device, torch.bfloat16):
        values, naive_errors = results(token_kl, arguments, chunk_tokens=CHUNK), errors(results(naive, arguments), reference)
    assert {value.dtype for value in values.values()} == {torch.float32}
    for name, error in errors(values, reference).items():
        assert error <= 1.1 * naive_errors[name], name


def test_heads_of_two_dtypes() -> None:
    """A frozen base in bfloat16 next to a model that is trained in float32."""
    arguments = {name: value.bfloat16() if name.startswith("base") else value for name, value in inputs(40, bias=True).items()}
    assert max(errors(results(token_kl, arguments), exact(arguments)).values()) <= 2e-6


def test_gradcheck() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(7, 5), (11, 5), (11,)]]
    others = [torch.randn(*shape, dtype=torch.float64) for shape in [(7, 3), (11, 3), (11,)]]

    def kl(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_kl(hidden, weight, *others[:2], bias, others[2], softcap=4.0, scale=1.5, base_softcap=4.0, chunk_tokens=2).kl

    assert torch.autograd.gradcheck(kl, leaves)


def test_no_tokens() -> None:
    arguments = inputs(0, bias=True)
    values = results(token_kl, arguments)
    assert values["kl"].shape == (0,) and values["kl"].dtype == torch.float32
    assert all(not values[name].any() for name in ("hidden", "weight", "bias"))


@pytest.mark.parametrize("labels", [False, True], ids=["all", "without-label"])
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_large_logits(size: float, labels: bool) -> None:
    """Both models sure of different tokens: finite, and as exact as float32 is."""
    arguments = inputs(64, size=size, labels=labels)
    values, reference = results(token_kl, arguments, chunk_tokens=CHUNK), exact(arguments)
    assert all(value.isfinite().all() for value in values.values())
    naive_errors = errors(results(naive, arguments), reference)
    for name, error in errors(values, reference).items():
        assert error <= 1.1 * naive_errors[name] + 2e-6, name


def test_backward_keeps_arguments_alone() -> None:
    arguments = inputs(129, bias=True, labels=True)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        token_kl(*(arguments[name] for name in ORDER), chunk_tokens=CHUNK)
    assert {tensor.data_ptr() for tensor in saved} == {arguments[name].data_ptr() for name in ORDER}


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))])
        return made


@pytest.mark.parametrize("labels", [False, True], ids=["all", "without-label"])
def test_no_logits_of_all_tokens_are_ever_made(labels: bool) -> None:
    arguments = inputs(700, labels=labels)
    with Largest() as largest:
        results(token_kl, arguments, chunk_tokens=CHUNK)
    assert largest.elements == max(700 * WIDTH, CHUNK * VOCABULARY, WIDTH * VOCABULARY) < 700 * VOCABULARY


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_only_what_is_trained_gets_a_gradient(trained: str) -> None:
    arguments = inputs(20, bias=True)
    expected = torch.autograd.grad(naive(*(arguments.get(name) for name in ORDER)).kl.sum(), arguments[trained])[0]
    leaves = {name: value.detach().requires_grad_(name == trained or name.startswith("base")) for name, value in arguments.items()}
    token_kl(*(leaves.get(name) for name in ORDER)).kl.sum().backward()
    torch.testing.assert_close(leaves[trained].grad, expected, rtol=1e-4, atol=1e-6)
    assert all(value.grad is None for name, value in leaves.items() if name != trained), "neither do those of the base"


def test_refuses_a_second_derivative() -> None:
    arguments = inputs(20)
    kl = token_kl(*(arguments[name] for name in ORDER[:4])).kl
    gradient = torch.autograd.grad(kl.square().sum(), arguments["weight"], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.randn(20, WIDTH + 1)}, r"`hidden_ND`, `weight_VD` and `bias_V` must be \[N, D\], \[V, D\] and \[V\], got \[\(20, 41\)"),
        ({"base_bias": torch.zeros(3)}, r"`base_hidden_NE`, `base_weight_VE` and `base_bias_V` must be \[N, E\]"),
        ({"base_hidden": torch.randn(19, OTHER_WIDTH)}, r"must have the same N and V, got \[\(20, 40\), \(311, 40\), \(19, 24\)"),
        ({"base_weight": torch.randn(300, OTHER_WIDTH), "base_bias": torch.zeros(300)}, "must have the same N and V"),
        ({"hidden": torch.randn(20, WIDTH).bfloat16()}, r"must have one dtype, got \[torch.bfloat16, torch.float32"),
        ({"labels": torch.zeros(19, dtype=torch.int64)}, r"`labels_N` must be \[N\] for `hidden_ND` \[N, D\], got \(19,\) for \(20, 40\)"),
        ({"softcap": 0.0}, r"`softcap` must lie in \(0, inf\), got 0.0"),
        ({"base_softcap": -1.0}, "`base_softcap` must lie in"),
        ({"chunk_tokens": 0}, "`chunk_tokens` must be at least 1, got 0"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    arguments = inputs(20, bias=True) | {name: value for name, value in changes.items() if isinstance(value, Tensor)}
    with pytest.raises(ValueError, match=message):
        token_kl(*(arguments.get(name) for name in ORDER), **{name: value for name, value in changes.items() if not isinstance(value, Tensor)})
