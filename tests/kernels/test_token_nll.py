"""Every kernel of ``KERNELS`` against the naive formula in float64 of the same inputs."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from lit_talr.kernels.liger_nll import liger_nll
from lit_talr.kernels.token_nll import IGNORE_INDEX, TokenNLL, token_nll
from lit_talr.kernels.torch_nll import torch_nll


def recomputing(*arguments: Any, **options: Any) -> TokenNLL:
    return token_nll(*arguments, kept_bytes=0, **options)


def liger(*arguments: Any, chunk_tokens: int = 0, **options: Any) -> TokenNLL:
    """Has chunks of its own."""
    return liger_nll(*arguments, **options)


LIGER = pytest.param(liger, marks=pytest.mark.skipif(not find_spec("liger_kernel"), reason="needs pip install lit-talr[liger]"))
KERNELS = [token_nll, recomputing, torch_nll, LIGER]  # the first keeps the small logits of these tests
REFUSED: dict[Any, set[Any]] = {
    torch_nll: {"softcap", "correct", "entropy", "top_entropy", torch.bfloat16, torch.float16},
    liger: {"bias", "softcap", "correct", "entropy", "top_entropy", torch.float64},
}
"""Features that a kernel refuses; everything else it computes like the others."""
EXTRAS = ("correct", "entropy", "top_entropy")
VOCABULARY, WIDTH, CHUNK = 311, 40, 32
Kernel = Callable[..., TokenNLL]
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")])]


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.__name__)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return request.param


def naive(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, softcap: float | None = None, scale: float = 1.0, **_: Any) -> TokenNLL:
    logits = scale * linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    nll = cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_INDEX)
    correct = (logits.argmax(-1) == labels) & (labels != IGNORE_INDEX)
    entropies = (
        torch.distributions.Categorical(logits=part).entropy().where(labels != IGNORE_INDEX, 0) for part in (logits.detach(), logits.detach().topk(20).values)
    )
    return TokenNLL(nll, correct, *entropies)


def inputs(num_tokens: int, bias: bool = False, dtype: torch.dtype = torch.float32, device: str = "cpu", size: float = 1.0) -> dict[str, Tensor]:
    """Leaves and labels, a quarter of which is ignored."""
    torch.manual_seed(num_tokens)
    labels = torch.randint(VOCABULARY, (num_tokens,))
    labels[::4] = IGNORE_INDEX
    arguments = {"hidden": size * torch.randn(num_tokens, WIDTH), "weight": torch.randn(VOCABULARY, WIDTH) / 3}
    if bias:
        arguments["bias"] = torch.randn(VOCABULARY)
    return {name: value.to(device, dtype).requires_grad_() for name, value in arguments.items()} | {"labels": labels.to(device)}


def call(function: Kernel, arguments: dict[str, Tensor], **options: Any) -> TokenNLL:
    return function(arguments["hidden"], arguments["weight"], arguments["labels"], arguments.get("bias"), **options)


def can(kernel: Kernel, feature: Any) -> bool:
    return feature not in REFUSED.get(kernel, ())


def refuses(kernel: Kernel, arguments: dict[str, Tensor], *dtypes: torch.dtype, **options: Any) -> bool:
    """Whether the kernel refuses a feature listed in ``REFUSED``; its sentence must name the way out."""
    if all(can(kernel, feature) for feature in [*arguments, *options, *dtypes, arguments["hidden"].dtype]):
        return False
    with pytest.raises(ValueError, match="use the head `own`"):
        call(kernel, arguments, **options)
    return True


def results(function: Kernel, arguments: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """NLL, entropies where the kernel has them, and the gradients for non-uniform token weights, the first supervised one zero."""
    extras = {name: True for name in EXTRAS[1:] if can(function, name)}
    tokens = call(function, arguments, **extras, **options)
    token_weights = torch.rand(len(tokens.nll), generator=torch.Generator().manual_seed(0)).to(tokens.nll)
    token_weights[:2] = 0  # the first is ignored anyway
    leaves = {name: value for name, value in arguments.items() if value.requires_grad}
    gradients = torch.autograd.grad((token_weights * tokens.nll).sum(), list(leaves.values()))
    values = {name: getattr(tokens, name) for name in extras}
    assert not any(value.requires_grad for value in values.values())
    return {"nll": tokens.nll.detach()} | values | dict(zip(leaves, gradients, strict=True))


def exact(arguments: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    return results(naive, {name: value.detach().double().requires_grad_() if name != "labels" else value for name, value in arguments.items()}, **options)


def errors(values: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """Norm of the difference over the norm."""
    return {name: float((value - reference[name]).norm() / reference[name].norm().clamp(min=1e-30)) for name, value in values.items()}


OPTIONS: list[dict[str, Any]] = [{}, {"softcap": 5.0}, {"scale": 0.25}, {"softcap": 3.0, "scale": 2.0}]
PLAIN, CAPPED, SCALED, BOTH = OPTIONS


@pytest.mark.parametrize(  # a quarter of the tokens is ignored: 43 tokens fill a chunk of 32 exactly
    ("num_tokens", "chunk_tokens", "bias", "options"),
    [
        (2, 1, True, PLAIN),
        (7, 32, True, CAPPED),
        (32, 32, False, SCALED),
        (41, 5, True, SCALED),
        (43, 32, True, BOTH),
        (43, 1000, False, PLAIN),
        (129, 32, False, CAPPED),
        (129, 32, True, PLAIN),
    ],
)
def test_float32_is_the_naive_formula(kernel: Kernel, num_tokens: int, chunk_tokens: int, bias: bool, options: dict[str, Any]) -> None:
    arguments = inputs(num_tokens, bias)
    if refuses(kernel, arguments, **options):
        return
    values = results(kernel, arguments, chunk_tokens=chunk_tokens, **options)
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert max(errors(values, exact(arguments, **options)).values()) <= 2e-6


def test_correct_is_the_argmax(kernel: Kernel) -> None:
    arguments = inputs(129, bias=True)
    best = linear(arguments["hidden"], arguments["weight"], arguments["bias"]).argmax(-1)
    arguments["labels"][1::3] = best[1::3]  # or none would be right
    if refuses(kernel, arguments, correct=True):
        return
    tokens, reference = call(kernel, arguments, chunk_tokens=CHUNK, softcap=9.0, correct=True), call(naive, arguments, softcap=9.0)
    assert tokens.correct is not None and reference.correct is not None
    assert torch.equal(tokens.correct, reference.correct)
    assert 0 < int(tokens.correct.sum()) < len(best)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "options"), [(torch.bfloat16, PLAIN), (torch.bfloat16, BOTH), (torch.float16, CAPPED), (torch.float16, SCALED)], ids=str)
def test_half_precision_errs_no_more_than_the_naive_formula(kernel: Kernel, dtype: torch.dtype, options: dict[str, Any], device: str) -> None:
    arguments = inputs(129, bias=can(kernel, "bias"), dtype=dtype, device=device)
    if refuses(kernel, arguments, **options):
        return
    values, reference = results(kernel, arguments, chunk_tokens=CHUNK, **options), exact(arguments, **options)
    assert values["nll"].dtype == torch.float32 and values["weight"].dtype == dtype
    naive_errors = errors(results(naive, arguments, **options), reference)
    for name, error in errors(values, reference).items():
        assert error <= 1.1 * naive_errors[name], name


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_rounds_the_operands(kernel: Kernel, device: str) -> None:
    arguments = inputs(129, bias=can(kernel, "bias"), device=device)
    rounded = {name: value.detach().bfloat16().requires_grad_() if name != "labels" else value for name, value in arguments.items()}
    reference = exact(rounded)
    with torch.autocast(device, torch.bfloat16):
        if refuses(kernel, arguments, torch.bfloat16):
            return
        values = results(kernel, arguments, chunk_tokens=CHUNK)
        naive_errors = errors(results(naive, arguments), reference)
    assert {value.dtype for value in values.values()} == {torch.float32}
    for name, error in errors(values, reference).items():
        assert error <= 1.1 * naive_errors[name], name


def test_backward_outside_autocast_keeps_its_precision(kernel: Kernel) -> None:
    arguments = inputs(50)
    with torch.autocast("cpu", torch.bfloat16):
        if refuses(kernel, arguments, torch.bfloat16):
            return
        inside = torch.autograd.grad(call(kernel, arguments).nll.sum(), arguments["weight"])[0]
        tokens = call(kernel, arguments)
    assert torch.equal(torch.autograd.grad(tokens.nll.sum(), arguments["weight"])[0], inside)


def test_gradcheck(kernel: Kernel) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(7, 5), (11, 5), (11,)]]
    labels = torch.tensor([3, IGNORE_INDEX, 0, 10, 7, IGNORE_INDEX, 2])
    options: dict[str, Any] = {"softcap": 4.0} if can(kernel, "softcap") else {}
    if refuses(kernel, {"hidden": leaves[0], "weight": leaves[1], "labels": labels, "bias": leaves[2]}, **options):
        return
    assert torch.autograd.gradcheck(lambda hidden, weight, bias: kernel(hidden, weight, labels, bias, scale=1.5, chunk_tokens=2, **options).nll, leaves)


@pytest.mark.parametrize("num_tokens", [0, 9])
def test_nothing_supervised_gives_zero_gradients(kernel: Kernel, num_tokens: int) -> None:
    arguments = inputs(num_tokens, bias=can(kernel, "bias"))
    arguments["labels"] = torch.full((num_tokens,), IGNORE_INDEX)
    tokens = call(kernel, arguments, **{name: True for name in EXTRAS[1:] if can(kernel, name)})
    assert tokens.nll.grad_fn is not None and tokens.nll.dtype == torch.float32
    for values in (tokens.nll, tokens.entropy, tokens.top_entropy):
        assert values is None or torch.equal(values, torch.zeros(num_tokens))
    tokens.nll.sum().backward()
    for name in arguments.keys() - {"labels"}:
        torch.testing.assert_close(arguments[name].grad, torch.zeros_like(arguments[name]), rtol=0, atol=0)


def test_ignored_tokens_are_zero_and_never_read(kernel: Kernel) -> None:
    arguments = inputs(20)
    with torch.no_grad():
        arguments["hidden"][::4] = torch.nan
    values = results(kernel, arguments)
    for name in values.keys() - {"weight"}:
        assert torch.equal(values[name][::4], torch.zeros_like(values[name][::4]))
    assert all(value.isfinite().all() for value in values.values())


def test_one_token(kernel: Kernel) -> None:
    arguments = {"hidden": torch.randn(1, WIDTH), "weight": torch.randn(VOCABULARY, WIDTH), "labels": torch.tensor([VOCABULARY - 1])}
    extras = {name: True for name in EXTRAS if can(kernel, name)}
    tokens, reference = call(kernel, arguments, **extras), call(naive, arguments)
    for name in ("nll", *extras):
        torch.testing.assert_close(getattr(tokens, name), getattr(reference, name))


def transposed(values: Tensor) -> Tensor:
    return values.mT.contiguous().mT


@pytest.mark.parametrize("layout", [transposed, lambda hidden: hidden.repeat_interleave(2, 1)[:, ::2], lambda hidden: hidden[:1].expand(len(hidden), -1)])
def test_any_memory_layout(kernel: Kernel, layout: Callable[[Tensor], Tensor]) -> None:
    arguments = inputs(50)
    arguments |= {"hidden": layout(arguments["hidden"].detach()).requires_grad_(), "weight": transposed(arguments["weight"].detach()).requires_grad_()}
    assert not arguments["hidden"].is_contiguous()
    assert max(errors(results(kernel, arguments, chunk_tokens=CHUNK), exact(arguments)).values()) <= 2e-6


def test_large_logits(kernel: Kernel) -> None:
    """A sure and right token has an NLL and gradients of 0; a sure and wrong one is as exact as float32 is."""
    arguments = inputs(64, size=1e4)
    assert (arguments["hidden"] @ arguments["weight"].T).max() > 1e4
    values = results(kernel, arguments)
    assert all(value.isfinite().all() for value in values.values())
    reference = exact(arguments)
    naive_errors = errors(results(naive, arguments), reference)
    for name, error in errors(values, reference).items():
        assert error <= 1.1 * naive_errors[name] + 2e-6, name


def test_a_second_backward_is_the_first(kernel: Kernel) -> None:
    arguments = inputs(129, bias=can(kernel, "bias"))
    nll = call(kernel, arguments, chunk_tokens=CHUNK).nll.sum()
    leaves = [value for value in arguments.values() if value.requires_grad]
    first, second = torch.autograd.grad(nll, leaves, retain_graph=True), torch.autograd.grad(nll, leaves)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_logits_are_kept_up_to_the_bound_and_never_with_a_soft_cap() -> None:
    arguments = inputs(129)
    size = int((arguments["labels"] != IGNORE_INDEX).sum()) * VOCABULARY * 4
    kept = {bound: call(token_nll, arguments, kept_bytes=bound).nll.grad_fn.scorer.kept is not None for bound in (size - 1, size)}  # type: ignore[union-attr]
    assert kept == {size - 1: False, size: True}
    assert call(token_nll, arguments, softcap=3.0).nll.grad_fn.scorer.kept is None  # type: ignore[union-attr]


def test_backward_keeps_arguments_and_vectors_only() -> None:
    kernel, arguments = recomputing, inputs(129, bias=True)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        call(kernel, arguments, chunk_tokens=CHUNK, entropy=True, top_entropy=True)
    matrices = {tensor.data_ptr() for tensor in saved if tensor.dim() > 1}
    assert saved and matrices == {arguments["hidden"].data_ptr(), arguments["weight"].data_ptr()}
    assert all(tensor.numel() <= max(VOCABULARY, 129) for tensor in saved if tensor.dim() <= 1)


def test_weight_is_read_again_in_backward(kernel: Kernel) -> None:
    """ZeRO-3 takes a parameter's data away between forward and backward, and brings it back in new memory."""
    arguments = inputs(20)
    weight = torch.nn.Parameter(arguments["weight"].detach().clone())
    nll = kernel(arguments["hidden"], weight, arguments["labels"]).nll
    data, weight.data = weight.data.clone(), torch.empty(0)
    weight.data = data
    nll.sum().backward()
    expected = torch.autograd.grad(call(naive, arguments).nll.sum(), arguments["weight"])[0]
    torch.testing.assert_close(weight.grad, expected)


def test_two_calls_with_one_weight_add_up(kernel: Kernel) -> None:
    arguments = inputs(60)
    whole = torch.autograd.grad(call(kernel, arguments).nll.sum(), arguments["weight"])[0]
    parts = [{"hidden": arguments["hidden"][part], "weight": arguments["weight"], "labels": arguments["labels"][part]} for part in (slice(22), slice(22, 60))]
    sum(call(kernel, part).nll.sum() for part in parts).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(arguments["weight"].grad, whole)


def test_only_what_is_trained_gets_a_gradient(kernel: Kernel) -> None:
    everything = inputs(20, bias=can(kernel, "bias"))
    for trained in everything.keys() - {"labels"}:
        expected = torch.autograd.grad(call(naive, everything).nll.sum(), everything[trained])[0]
        arguments = {name: value.detach().requires_grad_(name == trained) for name, value in everything.items()}
        call(kernel, arguments).nll.sum().backward()
        torch.testing.assert_close(arguments[trained].grad, expected)
        assert all(value.grad is None for name, value in arguments.items() if name != trained)


def test_without_gradients(kernel: Kernel) -> None:
    with torch.no_grad():
        tokens = call(kernel, inputs(20))
    assert not tokens.nll.requires_grad and tokens.entropy is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.full((20,), VOCABULARY)}, r"`labels_N` must lie in \[0, 311\) or be -100, got 311"),
        ({"labels": torch.full((20,), -1)}, r"`labels_N` must lie in \[0, 311\) or be -100, got -1"),
        ({"labels": torch.zeros(19, dtype=torch.int64)}, r"`labels_N` must be \[N\] for `hidden_ND` \[N, D\], got \(19,\) for \(20, 40\)"),
        ({"labels": torch.zeros(20, 1, dtype=torch.int64)}, r"`labels_N` must be \[N\].*got \(20, 1\)"),
        ({"softcap": 0.0}, r"`softcap` must lie in \(0, inf\), got 0.0; None is no soft-cap"),
        ({"chunk_tokens": 0}, "`chunk_tokens` must be at least 1, got 0"),
        ({"kept_bytes": -1}, "`kept_bytes` must be at least 0, got -1; 0 keeps no logits"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    arguments = inputs(20, bias=True) | changes
    with pytest.raises(ValueError, match=message):
        call(token_nll, arguments, **{name: value for name, value in changes.items() if name in ("softcap", "chunk_tokens", "kept_bytes")})


@pytest.mark.parametrize("kernel", [token_nll, recomputing, torch_nll], ids=lambda kernel: kernel.__name__)
def test_refuses_a_second_derivative(kernel: Kernel) -> None:
    arguments = inputs(20)
    with pytest.raises(RuntimeError, match="once_differentiable|don't support automatic differentiation"):
        torch.autograd.grad(call(kernel, arguments).nll.square().sum(), arguments["weight"], create_graph=True)[0].sum().backward()
