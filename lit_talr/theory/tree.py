"""The token tree: every sequence of a small vocabulary with its probability, on which Proposition 3.1 of the paper (arXiv:2509.20758) is exact."""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from lit_talr.theory.walk import evaluation, vocabulary_size, widen


class TokenTree(NamedTuple):
    """A distribution over sequences of d tokens; a shorter one continues with end tokens of probability 1, which add nothing to its code length."""

    levels: tuple[np.ndarray, ...]  # d arrays float64; level l has l axes of size V and gives the probability of its last index after the others

    def nodes(self) -> list[np.ndarray]:
        """The probability of each node of each level: that a sequence starts with the tokens of its path."""
        nodes = [self.levels[0]]
        for level in self.levels[1:]:
            nodes.append(nodes[-1][..., None] * level)
        return nodes


class Proposition(NamedTuple):
    """The three sides of Proposition 3.1, in nats; negative if the second model is better on P."""

    change: float  # E_P[L_q2] - E_P[L_q1], from whole sequences
    by_level: np.ndarray  # [d], - sum_j p_lj log(q2_lj / q1_lj) of each level l
    kl_change: float  # KL(P || q2) - KL(P || q1), from whole sequences


def proposition(p: TokenTree, first: TokenTree, second: TokenTree) -> Proposition:
    """Proposition 3.1: the change in code length is the sum over levels and nodes, and the change in divergence from the data.

    It holds under one reading of p_lj and q_lj: p_lj is the probability that the data *reach* node j of level l, q_lj the probability of its token *after
    its parent*. Along a path the q_lj multiply to q(z), so the sum splits the code length by levels. If q_lj were the probability of reaching the node,
    every level would count the whole again. If p_lj were that of the token after its parent, every branch would count like the most likely one.

    Raises:
        ValueError: If the data have a sequence that is impossible under both models.
    """
    leaves, one, two = p.nodes()[-1], first.nodes()[-1], second.nodes()[-1]
    by_level = [-expected_log(node, q2) + expected_log(node, q1) for node, q1, q2 in zip(p.nodes(), first.levels, second.levels, strict=True)]
    code_lengths = [-expected_log(leaves, q) for q in (one, two)]
    divergences = [expected_log(leaves, leaves) - expected_log(leaves, q) for q in (one, two)]
    if np.isneginf([-length for length in code_lengths]).all():
        raise ValueError("`p` has a sequence that is impossible under both models, so that the change in its code length is not defined; give other models.")
    return Proposition(code_lengths[1] - code_lengths[0], np.array(by_level), divergences[1] - divergences[0])


def expected_log(p: np.ndarray, q: np.ndarray) -> float:
    """sum p log q, without terms of p = 0."""
    happens = p > 0
    return float((p[happens] * np.log(q[happens])).sum())


def random_tree(vocabulary: int, depth: int, seed: int, end: int | None = None) -> TokenTree:
    """A tree whose branches are drawn from a flat Dirichlet distribution.

    Args:
        vocabulary: Tokens, V.
        depth: Levels, d; there are V^d sequences.
        seed: Seed of the draw.
        end: A token that only itself can follow.
    """
    draw = np.random.default_rng(seed)
    levels = [draw.dirichlet(np.ones(vocabulary), size=(vocabulary,) * level) for level in range(depth)]
    if end is not None:
        for level in levels[1:]:
            level[..., end, :] = np.eye(vocabulary)[end]
    return TokenTree(tuple(levels))


def tree_of_model(model: PreTrainedModel, depth: int, start: int) -> TokenTree:
    """The tree of a causal model with a small vocabulary, exact to its dtype.

    Args:
        model: A model of V tokens; it runs over the V^l beginnings of each level at once.
        depth: Levels, d.
        start: The token before every sequence.
    """
    vocabulary, levels = vocabulary_size(model), []
    with evaluation(model):
        for level in range(depth):
            beginnings = torch.tensor([(start, *tokens) for tokens in product(range(vocabulary), repeat=level)], device=model.device)
            logits = widen(model(input_ids=beginnings, use_cache=False).logits[:, -1])
            levels.append(logits.double().softmax(-1).cpu().numpy().reshape((vocabulary,) * (level + 1)))
    return TokenTree(tuple(levels))
