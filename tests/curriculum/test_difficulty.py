import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lit_talr.curriculum.difficulty import GROUPS, difficulty_rows, sequence_median, still_hard_share, supervised_noise
from lit_talr.data.encoded import EncodedExamples
from lit_talr.data.encoder import Encoded


def nll_of(*probabilities: float) -> torch.Tensor:
    return -torch.tensor(probabilities, dtype=torch.float64).log()


BASE = nll_of(0.1, 0.1, 0.25, 0.95, 0.96, 0.99, 0.0, 0.19)
NOW = nll_of(0.3, 0.1, 0.5, 0.90, 0.99, 0.10, 0.5, 0.01)
NOISE = torch.tensor([1, 0, 0, 0, 0, 1, 0, 0]).bool()
WEIGHTS = torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0, 1.0, 0.0, 0.25], dtype=torch.float64)
MEMBERS = {"noise": [0, 5], "hard": [1, 6, 7], "between": [2, 3], "easy": [4], "base_hard": [0, 1, 6, 7], "still_hard": [1, 7]}


def test_rows_are_those_of_a_loop() -> None:
    rows = {row["group"]: row for row in difficulty_rows(NOW, WEIGHTS, BASE, NOISE)}
    assert list(rows) == list(MEMBERS) and tuple(MEMBERS)[:4] == GROUPS
    pull = [float(weight * (1 - math.exp(-nll))) for weight, nll in zip(WEIGHTS, NOW, strict=True)]
    for group, members in MEMBERS.items():
        row = rows[group]
        assert row["num_tokens"] == len(members)
        assert row["base_nll"] == pytest.approx(float(BASE[members].mean()))
        if group in GROUPS:
            assert row["nll"] == pytest.approx(float(NOW[members].mean()))
            assert row["probability"] == pytest.approx(float((-NOW[members]).exp().mean()))
            assert row["weight"] == pytest.approx(float(WEIGHTS[members].mean()))
            assert row["gradient_share"] == pytest.approx(sum(pull[index] for index in members) / sum(pull))
    assert sum(rows[group]["num_tokens"] for group in GROUPS) == len(BASE)
    assert sum(rows[group]["gradient_share"] for group in GROUPS) == pytest.approx(1)


def test_the_gradient_share_is_that_of_the_gradient_at_the_logits() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(len(BASE), 11, generator=draw, dtype=torch.float64)).requires_grad_()
    nll = functional.cross_entropy(logits, torch.arange(len(BASE)), reduction="none")
    (gradient,) = torch.autograd.grad((WEIGHTS * nll).sum(), logits)
    norms = gradient.abs().sum(1)
    rows = {row["group"]: row for row in difficulty_rows(nll.detach(), WEIGHTS, BASE, NOISE)}
    for group in GROUPS:
        assert rows[group]["gradient_share"] == pytest.approx(float(norms[MEMBERS[group]].sum() / norms.sum()), rel=1e-12)


def test_a_group_without_tokens_has_no_means_and_no_weights_have_no_shares() -> None:
    rows = {row["group"]: row for row in difficulty_rows(NOW, 0 * WEIGHTS, BASE, torch.zeros(8).bool())}
    assert rows["noise"] == {"group": "noise", "num_tokens": 0, **dict.fromkeys(("nll", "base_nll", "probability", "weight", "gradient_share"))}
    assert rows["easy"]["num_tokens"] == 2 and rows["easy"]["weight"] == 0 and rows["easy"]["gradient_share"] is None


def test_tokens_without_a_number_are_hard() -> None:
    rows = {row["group"]: row for row in difficulty_rows(torch.tensor([math.nan]), torch.ones(1), torch.tensor([math.inf]), torch.zeros(1).bool())}
    assert rows["hard"]["num_tokens"] == rows["still_hard"]["num_tokens"] == 1


def test_the_share_that_is_still_hard() -> None:
    rows = [{"set": "probe", **row} for row in difficulty_rows(NOW, WEIGHTS, BASE, NOISE)]
    assert still_hard_share(rows, "probe") == 0.5
    assert still_hard_share(rows, "held_out") is None
    assert still_hard_share([{"set": "probe", **row} for row in difficulty_rows(NOW[:1] * 0, WEIGHTS[:1], BASE[:1] * 0, NOISE[:1])], "probe") is None


def test_the_median_is_the_lower_one_over_sequences() -> None:
    assert sequence_median(torch.tensor([1.0, 3.0, 9.0, 0.5, 4.0, 4.0]), np.array([2, 1, 1, 2])) == 2.0


def test_noise_is_read_at_supervised_tokens_of_the_chosen_examples() -> None:
    mask = np.array([False, True, True])
    encoded = EncodedExamples([Encoded(np.arange(3), mask, 0, np.zeros(3, dtype=bool))] * 3, pad_token_id=0)
    assert not encoded.noise.any() and len(encoded.noise) == 9
    encoded.noise = np.array([1, 0, 1, 0, 0, 0, 0, 1, 0]).astype(bool)
    assert supervised_noise(encoded, np.array([0, 2])).tolist() == [False, True, True, False]
