"""The contract of every strategy in ``lit_talr.losses``; a new file is found automatically, and its naive formula belongs into ``CASES``."""

import importlib
import inspect
import io
import math
import pkgutil
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from docstring_parser import parse
from torch import Tensor

import lit_talr.losses
from lit_talr.kernels.token_nll import token_nll
from lit_talr.losses import (
    ASFT,
    DFT,
    EAFT,
    EWC,
    FLOW,
    GCE,
    IWSFT,
    KL,
    L2,
    STM,
    TALR,
    InfoSFT,
    LossStrategy,
    MaskTheTarget,
    Permuted,
    PriFT,
    Rho1,
    Standard,
    TokenStats,
    Truncation,
)
from lit_talr.losses.anchored import Anchored
from lit_talr.losses.base import LossWrapper, Setting, check_loss
from lit_talr.losses.divergence import DivergenceWrapper

Make = Callable[[], LossStrategy]
Example = list[tuple[float, float, float]]  # for each supervised token: NLL, NLL under the base model, entropy of the top twenty
Naive = Callable[[Sequence[Example]], list[list[float]]]  # the examples of one micro-batch to the weights of their tokens
NEVER_TRAINED = {LossStrategy, LossWrapper, Anchored, DivergenceWrapper}


def each(weight: Callable[[float, float, float], float]) -> Naive:
    """A weight that depends on its token alone."""
    return lambda examples: [[weight(*token) for token in example] for example in examples]


def same_in_example(weight: Callable[[Example], float]) -> Naive:
    return lambda examples: [[weight(example)] * len(example) for example in examples]


def lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def talr(examples: Sequence[Example], floor: float = 0.01, token: bool = False, normalize: bool = False, least: float = 0.0) -> list[list[float]]:
    by_example = [[nll for nll, *_ in example] for example in examples if example]
    median = lower_median([nll for example in by_example for nll in example] if token else [statistics.fmean(example) for example in by_example])
    temperature = max(median, least)
    weights = [[max(math.exp(-nll / temperature), floor) for nll, *_ in example] for example in examples]
    mean = statistics.fmean(weight for example in weights for weight in example) if normalize else 1.0
    return [[weight / mean for weight in example] for example in weights]


def top_share(tokens: Sequence[tuple[float, float, float]], share: float) -> list[float]:
    excess = [nll - reference for nll, reference, _ in tokens]
    least = sorted(excess, reverse=True)[math.ceil(share * len(excess)) - 1] if excess else 0.0
    kept = [value >= least for value in excess]
    return [len(excess) / sum(kept) if keep else 0.0 for keep in kept]


def rho1_micro_batch(examples: Sequence[Example]) -> list[list[float]]:
    flat = iter(top_share([token for example in examples for token in example], 0.6))
    return [[next(flat) for _ in example] for example in examples]


def flow(examples: Sequence[Example]) -> list[list[float]]:
    means = [statistics.fmean(reference for _, reference, _ in example) for example in TRAINING if example]
    temperature = statistics.median(means)
    return same_in_example(lambda example: math.exp(-statistics.fmean(reference for _, reference, _ in example) / temperature) if example else 0.0)(examples)


def flow_token(examples: Sequence[Example]) -> list[list[float]]:
    temperature = statistics.median(reference for example in TRAINING for _, reference, _ in example)
    return each(lambda nll, reference, entropy: math.exp(-reference / temperature))(examples)


def clipped(value: float, lower: float, upper: float) -> float:
    return min(max(value, lower), upper)


def iw_sequence(example: Example) -> float:
    return clipped(math.exp(statistics.fmean(reference - nll for nll, reference, _ in example)), 0, 16) if example else 0.0


def permuted(examples: Sequence[Example]) -> list[list[float]]:
    easiest_first = sorted(nll for example in examples for nll, *_ in example)
    order = torch.randperm(len(easiest_first), generator=torch.Generator().manual_seed(3 * 2**32 + len(easiest_first))).tolist()
    return [[math.exp(-easiest_first[order[easiest_first.index(nll)]]) for nll, *_ in example] for example in examples]


def info(probability: float, threshold: float) -> float:
    return probability * max(0.0, 1 - math.log(probability / (1 - probability)) / math.log(threshold / (1 - threshold)))


CASES: dict[str, tuple[Make, Naive]] = {
    "Standard": (Standard, each(lambda nll, reference, entropy: 1.0)),
    "DFT": (DFT, each(lambda nll, reference, entropy: math.exp(-nll))),
    "ASFT": (ASFT, each(lambda nll, reference, entropy: math.exp(-nll))),
    "InfoSFT": (InfoSFT, each(lambda nll, reference, entropy: info(math.exp(-nll), 0.93))),
    "InfoSFT wide": (partial(InfoSFT, threshold=0.999), each(lambda nll, reference, entropy: info(math.exp(-nll), 0.999))),
    "KL": (lambda: KL(Standard()), each(lambda nll, reference, entropy: 1.0)),
    "KL InfoSFT": (lambda: KL(InfoSFT(), 2.0), each(lambda nll, reference, entropy: info(math.exp(-nll), 0.93))),
    "MaskTheTarget": (lambda: MaskTheTarget(Standard()), each(lambda nll, reference, entropy: 1.0)),
    "MaskTheTarget TALR": (lambda: MaskTheTarget(TALR()), talr),
    "L2": (lambda: L2(DFT()), each(lambda nll, reference, entropy: math.exp(-nll))),
    "EWC": (lambda: EWC(DFT()), each(lambda nll, reference, entropy: math.exp(-nll))),
    "TALR": (TALR, talr),
    "TALR token": (partial(TALR, floor=0.0, statistic="token"), partial(talr, floor=0.0, token=True)),
    "TALR fixed": (partial(TALR, temperature=0.5, floor=0.1), each(lambda nll, reference, entropy: max(math.exp(-nll / 0.5), 0.1))),
    "TALR least": (partial(TALR, least_temperature=1.5), partial(talr, least=1.5)),
    "TALR least in reach": (partial(TALR, least_temperature=0.8, scope="ranks"), partial(talr, least=0.8)),
    "TALR normalize": (partial(TALR, normalize=True), partial(talr, normalize=True)),
    "TALR ranks": (partial(TALR, scope="ranks"), talr),
    "TALR step": (partial(TALR, scope="step"), each(lambda nll, reference, entropy: 1.0)),  # in the first step
    "EAFT": (EAFT, each(lambda nll, reference, entropy: entropy / 3)),
    "EAFT 2": (partial(EAFT, alpha=2.0), each(lambda nll, reference, entropy: (entropy / 3) ** 2)),
    "GCE": (GCE, each(lambda nll, reference, entropy: math.exp(-nll) ** 0.7)),
    "GCE 10": (partial(GCE, a=10.0), each(lambda nll, reference, entropy: math.exp(-nll) ** 10)),
    "Truncation": (lambda: Truncation(Standard()), each(lambda nll, reference, entropy: 1.0 if math.exp(-nll) >= 0.2 else 0.0)),
    "Truncation TALR": (lambda: Truncation(TALR(), 0.0), talr),
    "Truncation DFT": (lambda: Truncation(DFT(), 0.5), each(lambda nll, reference, entropy: math.exp(-nll) if math.exp(-nll) >= 0.5 else 0.0)),
    "STM": (STM, each(lambda nll, reference, entropy: 1.0 if math.exp(reference) <= 2.5 else 0.0)),
    "Permuted": (lambda: Permuted(DFT(), seed=3), permuted),
    "PriFT": (PriFT, each(lambda nll, reference, entropy: math.exp(-reference))),
    "Rho1": (Rho1, rho1_micro_batch),
    "L2 Rho1": (lambda: L2(Rho1()), rho1_micro_batch),
    "Rho1 sequence": (partial(Rho1, share=0.3, scope="sequence"), lambda examples: [top_share(example, 0.3) for example in examples]),
    "FLOW": (FLOW, flow),
    "FLOW token": (partial(FLOW, level="token"), flow_token),
    "FLOW fixed": (partial(FLOW, level="token", temperature=2.0), each(lambda nll, reference, entropy: math.exp(-reference / 2))),
    "IWSFT": (IWSFT, same_in_example(iw_sequence)),
    "IWSFT token": (partial(IWSFT, level="token"), each(lambda nll, reference, entropy: clipped(math.exp(reference - nll), 0.2, 1.8))),
    "IWSFT sharp": (
        partial(IWSFT, level="token", sharpness=2.0, bounds=(0.5, 3.0)),
        each(lambda nll, reference, entropy: clipped(math.exp(reference - nll) ** 2, 0.5, 3.0)),
    ),
}


def strategies() -> list[type[LossStrategy]]:
    """Every strategy of every file of the package."""
    modules = [importlib.import_module(f"lit_talr.losses.{found.name}") for found in pkgutil.iter_modules(lit_talr.losses.__path__)]
    found = {member for module in modules for _, member in inspect.getmembers(module, inspect.isclass) if issubclass(member, LossStrategy)}
    return sorted(found - NEVER_TRAINED, key=lambda strategy: strategy.__name__)


def random_examples(seed: int, sizes: Sequence[int]) -> list[Example]:
    draw = np.random.default_rng(seed)
    return [[(draw.exponential(0.9), draw.exponential(0.9), draw.uniform(0, 2.9)) for _ in range(size)] for size in sizes]


TRAINING = random_examples(0, [3, 7, 1, 5, 4, 6, 2, 8])


def stats_of(examples: Sequence[Example], places: Sequence[Sequence[int]], width: int, numbers: Sequence[int] | None = None) -> TokenStats:
    """A micro-batch with a row for each example; its tokens stand at ``places`` and all else is unsupervised, with nonsense in it."""
    shape = (max(1, len(examples)), width)
    nll, reference, entropy = torch.zeros(shape).double(), torch.full(shape, 0.123).double(), torch.full(shape, 0.7).double()
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, (example, columns) in enumerate(zip(examples, places, strict=True)):
        for column, token in zip(columns, example, strict=True):
            nll[row, column], reference[row, column], entropy[row, column] = token
            mask[row, column] = True
    sequence = torch.tensor(numbers or range(shape[0])).unsqueeze(1).expand(shape).contiguous()
    return TokenStats(nll, mask, sequence, entropy, entropy, reference, torch.zeros_like(nll), torch.zeros_like(nll))


def plain_stats(examples: Sequence[Example]) -> TokenStats:
    return stats_of(examples, [range(len(example)) for example in examples], max(1, *map(len, examples)))


def prepared(make: Make) -> LossStrategy:
    loss = make()
    loss.prepare(np.array([reference for example in TRAINING for _, reference, _ in example]), np.array([len(example) for example in TRAINING]))
    return loss


def weights_of(loss: LossStrategy, stats: TokenStats) -> list[float]:
    """The weights of a training micro-batch, which the loss observes."""
    weights = loss.weights(stats)
    loss.observe(stats, weights)
    return weights[stats.mask].tolist()


def options_of(strategy: type[LossStrategy]) -> set[str]:
    arguments = inspect.signature(strategy).parameters.values()
    return {argument.name for argument in arguments if argument.kind == argument.POSITIONAL_OR_KEYWORD}


every_case = pytest.mark.parametrize("name", CASES)
every_strategy = pytest.mark.parametrize("name", {name.split()[0]: name for name in reversed(CASES)}.values())  # one case each


def test_every_strategy_has_its_formula_here() -> None:
    missing = {strategy.__name__ for strategy in strategies()} - {name.split()[0] for name in CASES}
    assert not missing, f"Write the naive formula of {missing} into CASES."
    assert {strategy.__name__ for strategy in strategies()} <= set(lit_talr.losses.__all__)


@pytest.mark.parametrize("strategy", strategies(), ids=lambda strategy: strategy.__name__)
def test_every_strategy_says_what_it_is(strategy: type[LossStrategy]) -> None:
    page = parse(inspect.getdoc(strategy) or "")
    assert page.short_description and "`" in page.short_description, "the first line is the formula"
    text = page.long_description or ""
    assert "Source:" in text and "Use:" in text
    assert {parameter.arg_name for parameter in page.params} == options_of(strategy)


@every_strategy
def test_options_are_kept_under_their_own_names(name: str) -> None:
    """A run says them, and a resumed one must have the same."""
    loss = CASES[name][0]()
    kept = {option for option in options_of(type(loss)) if not isinstance(getattr(loss, option), LossStrategy)}
    assert {part.split("=")[0] for part in loss.extra_repr().split(", ") if "=" in part} == kept
    assert loss.extra_repr() == prepared(CASES[name][0]).extra_repr(), "they do not change"


@every_case
def test_weights_are_those_of_the_naive_formula(name: str) -> None:
    make, naive = CASES[name]
    for sizes in ([3, 7, 1, 5], [1], [4, 0, 6], [2, 2, 2, 2, 2, 2]):
        examples = random_examples(sum(sizes), sizes)
        found = weights_of(prepared(make), plain_stats(examples))
        assert found == pytest.approx([weight for example in naive(examples) for weight in example], rel=1e-12, abs=1e-15)


@every_strategy
def test_no_gradient_goes_through_the_weights(name: str) -> None:
    loss, stats = prepared(CASES[name][0]), plain_stats(TRAINING)
    nll = stats.nll.clone().requires_grad_()
    weights = loss.weights(stats._replace(nll=nll))
    loss(stats._replace(nll=nll), weights).backward()
    assert nll.grad is not None
    assert torch.equal(nll.grad, torch.where(stats.mask, weights.detach(), 0))
    assert loss(stats, weights).item() == pytest.approx(float((weights * stats.nll)[stats.mask].sum()), rel=1e-12)


@every_case
def test_neither_padding_nor_order_nor_nonsense_in_the_padding_matters(name: str) -> None:
    make = CASES[name][0]
    first = prepared(make)
    plain = first.weights(plain_stats(TRAINING))[plain_stats(TRAINING).mask].split([len(example) for example in TRAINING])
    order = [5, 0, 7, 2, 1, 6, 4, 3]
    shuffled = [TRAINING[number] for number in order]
    stats = stats_of([[], *shuffled, []], [[], *[[3 + 2 * place for place in range(len(example))] for example in shuffled], []], 23, [9, *order, 8])
    for nonsense in (math.nan, math.inf, -5.0):
        dirty = stats._replace(**{field: torch.where(stats.mask, getattr(stats, field), nonsense) for field in ("entropy", "top_entropy", "base_nll")})
        second = prepared(make)
        weights = second.weights(dirty)
        assert torch.isfinite(second(dirty, weights))
        found = weights[stats.mask].split([len(example) for example in shuffled])
        for number, values in zip(order, found, strict=True):
            torch.testing.assert_close(values, plain[number], rtol=1e-12, atol=1e-15)


@every_case
def test_two_examples_in_one_row_are_two(name: str) -> None:
    examples = random_examples(1, [4, 4, 4])
    stats = plain_stats(examples)
    packed = TokenStats._make(None if field is None else field.reshape(1, -1) for field in stats)
    assert weights_of(prepared(CASES[name][0]), packed) == pytest.approx(weights_of(prepared(CASES[name][0]), stats), rel=1e-12)


@every_strategy
def test_a_token_of_weight_zero_takes_nothing_from_the_others(name: str) -> None:
    """Through the head, whose backward once multiplied all tokens by the first one's gradient, elsewhere."""
    torch.manual_seed(0)
    hidden, head = torch.randn(5, 6).double().requires_grad_(), torch.randn(30, 6).double().requires_grad_()
    labels = torch.tensor([3, 1, 4, 1, 5])
    loss = prepared(CASES[name][0])
    like = plain_stats(random_examples(2, [5]))

    def gradients(nll: Tensor) -> list[Tensor]:
        stats = like._replace(nll=nll[None])
        weights = loss.weights(stats).detach().clone()
        weights[0, 0] = 0
        return list(torch.autograd.grad(loss(stats, weights), [hidden, head]))

    ours = gradients(token_nll(hidden, head, labels, chunk_tokens=2).nll)
    naive = gradients(torch.nn.functional.cross_entropy(hidden @ head.T, labels, reduction="none"))
    assert not ours[0][0].any()
    for found, expected in zip(ours, naive, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@every_strategy
def test_nothing_supervised_gives_zero_and_zero_gradient(name: str) -> None:
    loss, stats = prepared(CASES[name][0]), stats_of([[]], [[]], 2)
    nll = stats.nll.clone().requires_grad_()
    weights = loss.weights(stats._replace(nll=nll))
    loss.observe(stats._replace(nll=nll), weights)
    value = loss(stats._replace(nll=nll), weights)
    value.backward()
    assert value.item() == 0 and nll.grad is not None and not nll.grad.any()
    loss.step_end()
    assert all(not name.startswith("talr") or not torch.isfinite(value) or value >= 0 for name, value in loss.metrics().items())


@every_case
def test_state_survives_a_checkpoint(name: str) -> None:
    make = CASES[name][0]
    loss = prepared(make)
    for seed in (1, 2):
        weights_of(loss, plain_stats(random_examples(seed, [3, 5])))
        loss.step_end()
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = prepared(make)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    later = plain_stats(random_examples(3, [3, 5]))
    assert weights_of(resumed, later) == weights_of(loss, later)


def split(make: Make, parts: Sequence[Sequence[Example]], steps: int = 2) -> list[float]:
    """The weights of a step that is cut into micro-batches, after another step that was cut likewise."""
    loss = prepared(make)
    weights: list[float] = []
    for _ in range(steps):
        weights = [weight for part in parts for weight in weights_of(loss, plain_stats(part))]
        loss.step_end()
    return weights


@every_case
def test_a_step_is_the_same_however_it_is_split_where_that_is_promised(name: str) -> None:
    make = CASES[name][0]
    whole = split(make, [TRAINING])
    others = [split(make, [TRAINING[:3], TRAINING[3:]]), split(make, [[example] for example in TRAINING])]
    if prepared(make).batching_invariant:
        assert all(other == pytest.approx(whole, rel=1e-12) for other in others)
    else:
        assert any("split" in (type(part).__doc__ or "") for part in make().modules()), "a docstring says so"
        assert any(other != pytest.approx(whole, rel=1e-6) for other in others), "then it could promise it"


@every_strategy
def test_a_setting_is_refused_by_name_with_a_way_out(name: str) -> None:
    loss = CASES[name][0]()
    loss.check(Setting())
    for change in ({"pretrained": False}, {"adapter": True}, {"sharded": True}, {"precision": "bf16-true"}, {"sharded_weights": True}):
        try:
            loss.check(Setting()._replace(**change))
        except ValueError as error:
            assert any(strategy.__name__ in str(error) for strategy in strategies()) and str(error).endswith(".")
            assert "; " in str(error), "the way out comes after a semicolon"


class Hidden(Standard):
    """Stores its option under another name."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self._power = power


class OneName(Standard):
    needs = "entropy"  # type: ignore[assignment]


class NeedsMore(LossWrapper):
    needs = frozenset({"entropy"})


def test_a_strategy_that_runs_could_not_record_or_serve_is_refused() -> None:
    check_loss(L2(TALR()))
    with pytest.raises(ValueError, match="Hidden must store its option `power` as `self.power`, so that runs can record it"):
        check_loss(L2(Hidden(2.0)))
    with pytest.raises(ValueError, match=r"OneName.needs must be a set such as `frozenset\({'entropy'}\)`, got 'entropy'"):
        check_loss(OneName())
    with pytest.raises(ValueError, match="`loss` must be a LossStrategy such as `TALR\\(\\)`, got 'talr'"):
        check_loss("talr")  # type: ignore[arg-type]


def test_a_wrapper_needs_what_it_and_the_wrapped_loss_need() -> None:
    assert NeedsMore(FLOW()).needs == {"entropy", "base_nll"}


@every_case
def test_weights_alone_keep_nothing_that_grows(name: str) -> None:
    """A strategy may be used outside of a run, where no step ever ends."""
    loss, stats = prepared(CASES[name][0]), plain_stats(random_examples(4, [2, 3]))
    loss.weights(stats)
    before = count_tensors(loss)
    for _ in range(100):
        loss(stats, loss.weights(stats))
    assert count_tensors(loss) == before


def count_tensors(value: Any) -> int:
    """The tensors that a strategy holds, in lists and wrapped losses too."""
    if isinstance(value, Tensor):
        return 1
    if isinstance(value, LossStrategy):
        return sum(count_tensors(part) for loss in value.modules() for part in vars(loss).values() if part is not value)
    return sum(map(count_tensors, value.values() if isinstance(value, dict) else value)) if isinstance(value, dict | list | tuple) else 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(TALR, least_temperature=-1.0), r"`least_temperature` must lie in \[0, inf\), got -1.0"),
        (partial(TALR, least_temperature=math.nan), r"`least_temperature` must lie in \[0, inf\), got nan"),
        (partial(EAFT, alpha=-1.0), r"`alpha` must lie in \[0, inf\), got -1.0"),
        (partial(EAFT, alpha=math.nan), r"`alpha` must lie in \[0, inf\), got nan"),
        (lambda: Permuted(Standard(), seed=-1), "`seed` must be at least 0, got -1"),
        (partial(GCE, a=-0.1), r"`a` must lie in \[0, inf\), got -0.1"),
        (partial(GCE, a=math.inf), r"`a` must lie in \[0, inf\), got inf"),
        (partial(InfoSFT, threshold=0.5), r"`threshold` must lie in \(0.5, 1\), got 0.5"),
        (partial(InfoSFT, threshold=1.0), r"`threshold` must lie in \(0.5, 1\), got 1.0"),
        (lambda: KL(Standard(), -1.0), r"`coefficient` must lie in \[0, inf\), got -1.0"),
        (lambda: MaskTheTarget(Standard(), math.nan), r"`coefficient` must lie in \[0, inf\), got nan"),
        (lambda: Truncation(Standard(), threshold=1.5), r"`threshold` must lie in \[0, 1\], got 1.5"),
        (partial(STM, max_perplexity=0.5), "`max_perplexity` must be at least 1, got 0.5"),
        (partial(Rho1, share=0.0), r"`share` must lie in \(0, 1\], got 0.0"),
        (partial(FLOW, temperature=0.0), "`temperature` must be above 0, got 0.0"),
        (partial(IWSFT, sharpness=-1.0), r"`sharpness` must lie in \[0, inf\), got -1.0"),
        (partial(IWSFT, sharpness=math.inf), r"`sharpness` must lie in \[0, inf\), got inf"),
        (partial(IWSFT, bounds=(2.0, 1.0)), r"`bounds` must be two rising numbers of at least 0, got \[2.0, 1.0\]"),
    ],
)
def test_options_out_of_range_are_refused(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "setting", "message"),
    [
        (L2(Standard()), Setting(adapter=True), "leave out `model.adapter`"),
        (L2(Standard()), Setting(precision="bf16-true"), "use `bf16-mixed`"),
        (L2(L2(FLOW())), Setting(pretrained=False), "FLOW compares with the base model"),
        (Truncation(STM()), Setting(pretrained=False), "give `model.pretrained`"),
        (L2(KL(TALR())), Setting(pretrained=False), "KL compares with the base model"),
        (MaskTheTarget(L2(TALR())), Setting(sharded_weights=True), "MaskTheTarget runs the base model next to the trained one"),
        (KL(L2(TALR())), Setting(adapter=True), "leave out `model.adapter`"),
    ],
)
def test_refusals_reach_through_wrappers(loss: LossStrategy, setting: Setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss.check(setting)


def test_stm_refuses_to_mask_everything() -> None:
    with pytest.raises(ValueError, match="`max_perplexity` 1.5 masks every token of the training set, whose least perplexity is 2.718; raise it."):
        STM(1.5).prepare(np.array([2.0, 1.0], np.float32), np.array([2]))


def known(**fields: Any) -> TokenStats:
    return plain_stats(TRAINING)._replace(**fields)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (GCE(a=1.0), DFT()),
        (GCE(a=0.0), Standard()),
        (GCE(a=2.5), TALR(temperature=0.4, floor=0.0)),
        (EAFT(alpha=0.0), Standard()),
        (Truncation(TALR(), 0.0), TALR()),
        (Rho1(share=1.0), Standard()),
        (IWSFT(level="token", sharpness=0.0), Standard()),
        (FLOW(temperature=math.inf), Standard()),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_identities(first: LossStrategy, second: LossStrategy) -> None:
    assert weights_of(first, known()) == pytest.approx(weights_of(second, known()), rel=1e-12)


def test_where_the_model_is_still_the_base_model() -> None:
    stats = plain_stats(TRAINING)
    start = stats._replace(base_nll=stats.nll)
    assert weights_of(Rho1(), start) == weights_of(Rho1(scope="sequence"), start) == weights_of(Standard(), start), "all tokens tie"
    assert weights_of(PriFT(), start) == weights_of(DFT(), start)
    assert weights_of(IWSFT(), start) == weights_of(IWSFT(level="token"), start) == weights_of(Standard(), start)


def test_talr_of_the_base_model_at_the_median_is_flow_by_token() -> None:
    loss = prepared(partial(FLOW, level="token"))
    assert isinstance(loss, FLOW)
    stats = plain_stats(TRAINING)
    talr = TALR(temperature=loss.used_temperature, floor=0.0)
    assert stats.base_nll is not None
    assert weights_of(talr, stats._replace(nll=stats.base_nll)) == weights_of(loss, stats)
