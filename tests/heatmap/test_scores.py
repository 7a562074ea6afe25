from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

from lit_talr.data.encoder import Encoded
from lit_talr.heatmap.scores import ranks, score_tokens, weigh_tokens
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from tests.helpers.models import ARCHITECTURES

ROWS = [([5, 7, 11, 13, 17], [False, False, True, True, True]), ([23, 29, 31], [False, True, False]), ([40, 41, 42, 3], [False, True, False, True])]


def backbone(family: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(load_model(None, None, ARCHITECTURES[family], 61, None, torch.float64)).eval()


def encoded() -> list[Encoded]:
    return [Encoded(np.array(ids, dtype=np.int32), np.array(mask), 0, np.zeros(len(ids), bool)) for ids, mask in ROWS]


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])  # the second has a soft-cap
def test_numbers_are_those_of_plain_logits(family: str) -> None:
    model = backbone(family)
    found = score_tokens(model, encoded())
    expected: list[Any] = []
    for ids, mask in ROWS:
        logits = model.model(torch.tensor([ids])).logits[0]
        for place in range(1, len(ids)):
            if mask[place]:
                row = Categorical(logits=logits[place - 1].detach())
                more = int((row.probs > row.probs[ids[place]]).sum())
                expected.append([float(-row.log_prob(torch.tensor(ids[place]))), 1 + more, float(row.entropy())])
    nll, rank, entropy = zip(*expected, strict=True)
    assert found.rank.tolist() == list(rank) and found.rank.dtype == torch.int64 and len(set(rank)) > 2
    np.testing.assert_allclose(found.nll.numpy(), nll, rtol=1e-10)
    np.testing.assert_allclose(found.entropy.numpy(), entropy, rtol=1e-10)
    assert not found.nll.requires_grad


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
def test_ranks_hold_the_logits_of_few_tokens(num_tokens: int) -> None:
    head, seen = backbone("qwen3").head, []
    hidden, labels = torch.randn(num_tokens, 16, dtype=torch.float64), torch.randint(61, (num_tokens,))
    logits = head(hidden)
    head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    found = ranks(hidden, labels, head, chunk_tokens=3)
    assert found.tolist() == (1 + (logits > logits.gather(1, labels[:, None])).sum(1)).tolist()
    assert seen == {0: [0], 1: [1], 7: [3, 3, 1]}[num_tokens]


def test_equal_logits_share_a_rank() -> None:
    head = backbone("qwen3").head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[4] = 1
    assert ranks(torch.ones(2, 16, dtype=torch.float64), torch.tensor([4, 9]), head).tolist() == [1, 2]


def test_weights_are_those_of_talr_over_the_page() -> None:
    nll = torch.tensor([0.1, 0.3, 2.0, 40.0, 1.0], dtype=torch.float64)
    weights, temperature = weigh_tokens(nll, [2, 1, 2])
    assert temperature == 2.0  # means .2, 2, 20.5; of four examples it would be the second
    assert weights.tolist() == pytest.approx([np.exp(-0.05), np.exp(-0.15), np.exp(-1), 0.01, np.exp(-0.5)])
    assert weigh_tokens(nll, [1, 1, 2, 1])[1] == pytest.approx(0.3)
