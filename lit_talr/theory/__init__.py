"""Language models as compressors, as in the paper: code lengths, a coder, the token tree, and simulations of both theorems."""

from lit_talr.theory.code_length import CodeLength, bits_per_byte, code_length
from lit_talr.theory.coder import compress, decompress
from lit_talr.theory.drift import Drift, drift
from lit_talr.theory.simulations import bound, cost_of_gain, hard_token_setting, random_setting, safe_rate
from lit_talr.theory.tilting import Setting, geometric_step, logit_step, ratio_step
from lit_talr.theory.tree import Proposition, TokenTree, proposition, random_tree, tree_of_model

__all__ = [
    "CodeLength",
    "Drift",
    "Proposition",
    "Setting",
    "TokenTree",
    "bits_per_byte",
    "bound",
    "code_length",
    "compress",
    "cost_of_gain",
    "decompress",
    "drift",
    "geometric_step",
    "hard_token_setting",
    "logit_step",
    "proposition",
    "random_setting",
    "random_tree",
    "ratio_step",
    "safe_rate",
    "tree_of_model",
]
