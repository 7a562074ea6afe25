"""The token tree: every sequence of a small vocabulary with its probability, on which Proposition 3.1 of the paper (arXiv:2509.20758) is exact."""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from lit_talr.theory.walk import evaluation, vocabulary_size, widen


class TokenTree(NamedTuple):
    """A distribution over sequences of d tokens; a shorter one goes on with an end token of probability 1, which adds nothing to its code length."""

    levels: tuple[np.ndarray, ...]  # d arrays float64, that of level l of l axes of size V: the probability of its last index after those before it

    def nodes(self) -> list[np.ndarray]:
        """The probability of each node of each level: that a sequence begins with the tokens of its path."""
        nodes = [self.levels[0]]
        for level in self.levels[1:]:
            nodes.append(nodes[-1][..., None] * level)
        return nodes


class Proposition(NamedTuple):
    """The three sides of Proposition 3.1, in nats; negative where the second model is the better one on P."""

    change: float  # E_P[L_q2] - E_P[L_q1], from whole sequences
    by_level: np.ndarray  # [d], - sum_j p_lj log(q2_lj / q1_lj) of each level l
    kl_change: float  # KL(P || q2) - KL(P || q1), from whole sequences


def proposition(p: TokenTree, first: TokenTree, second: TokenTree) -> Proposition:
    """Proposition 3.1: the change in code length is the sum over levels and nodes, and the change in divergence from the data.

    Of the readings of p_lj and q_lj it holds under one: p_lj is the probability that the data *reach* node j of level l, q_lj the probability of its token
    *after its parent*. Along a path the latter multiply to q(z), so the sum is the code length cut by levels. Were q_lj that of reaching the node, the
    last level alone would be the whole, and the sum would count it again on every level; were p_lj that of the token after its parent, every branch would
    count like the most likely one.

    Raises:
        ValueError: If the data have a sequence that neither model can write.
    """
    leaves, one, two = p.nodes()[-1], first.nodes()[-1], second.nodes()[-1]
    by_level = [-expected(node, q2) + expected(node, q1) for node, q1, q2 in zip(p.nodes(), first.levels, second.levels, strict=True)]
    code_lengths = [-expected(leaves, q) for q in (one, two)]
    divergences = [expected(leaves, leaves) - expected(leaves, q) for q in (one, two)]
    if np.isneginf([-length for length in code_lengths]).all():
        raise ValueError("`p` has a sequence that is impossible under both models, so that the change in its code length is not defined; give other models.")
    return Proposition(code_lengths[1] - code_lengths[0], np.array(by_level), divergences[1] - divergences[0])


def expected(p: np.ndarray, q: np.ndarray) -> float:
    """sum p log q, in which what never happens counts nothing."""
    happens = p > 0
    return float((p[happens] * np.log(q[happens])).sum())


def random_tree(vocabulary: int, depth: int, seed: int, end: int | None = None) -> TokenTree:
    """A tree whose branches are drawn from a flat Dirichlet distribution.

    Args:
        vocabulary: Tokens, V.
        depth: Levels, d; there are V^d sequences.
        seed: Of the draw.
        end: A token after which nothing but itself can come.
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
        model: Its vocabulary is V; it runs over the V^l beginnings of each level at once.
        depth: Levels, d.
        start: The token that stands before every sequence.
    """
    vocabulary, levels = vocabulary_size(model), []
    with evaluation(model):
        for level in range(depth):
            beginnings = torch.tensor([(start, *tokens) for tokens in product(range(vocabulary), repeat=level)], device=model.device)
            logits = widen(model(input_ids=beginnings, use_cache=False).logits[:, -1])
            levels.append(logits.double().softmax(-1).cpu().numpy().reshape((vocabulary,) * (level + 1)))
    return TokenTree(tuple(levels))
