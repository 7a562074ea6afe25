"""Evaluates arithmetic in a model's response without running it as code."""

import math
import operator
import re
from collections.abc import Callable

MAX_LENGTH = 1000
MAX_DEPTH = 50

TOKEN = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|\*\*|[A-Za-z][A-Za-z0-9_.]*|\S")
SIGN_BINDS, POWER_BINDS = 3, 4  # -2 ** 2 is -4, and 2 ** -1 is 0.5
BINARY: dict[str, tuple[int, Callable[[float, float], float]]] = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, operator.truediv),
    "**": (POWER_BINDS, math.pow),
    "^": (POWER_BINDS, math.pow),
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "exp": math.exp,
    "float": float,
    "int": lambda value: float(math.trunc(value)),
    "log": math.log,
    "max": max,
    "min": min,
    "pow": math.pow,
    "round": lambda value, digits=0.0: round(value, int(digits)),
    "sqrt": math.sqrt,
}


def calculate(expression: str) -> float | None:
    """Evaluates an arithmetic expression in the digits 0 to 9; None where it has no value.

    Reads numbers, ``+ - * / **`` (also written ``^``), signs, parentheses and calls of ``FUNCTIONS``, also with ``math.`` or ``np.`` before the name.
    Every value is a float, even that of ``int``, so ``9**9**9`` overflows at once instead of filling the memory. Never raises: what cannot be read, has no
    finite real value, is longer than ``MAX_LENGTH`` characters or nested deeper than ``MAX_DEPTH`` gives None.

    >>> calculate("round((140 - 60) * 72.5 / (72 * 1.1), 1)")
    73.2
    >>> calculate("9**9**9") is None
    True
    """
    if len(expression) > MAX_LENGTH:
        return None
    tokens = TOKEN.findall(expression)[::-1]
    try:
        value = float(_expression(tokens, 0, 0))
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
        return None
    return value if not tokens and math.isfinite(value) else None


def _expression(tokens: list[str], binds: int, depth: int) -> float:
    """Takes the longest expression whose operators bind at least as strongly as ``binds`` off the end of the reversed ``tokens``."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    value = _operand(tokens, depth)
    while tokens and tokens[-1] in BINARY and BINARY[tokens[-1]][0] >= binds:
        strength, apply = BINARY[tokens.pop()]
        value = apply(value, _expression(tokens, strength + (strength != POWER_BINDS), depth + 1))  # powers group from the right
    return value


def _operand(tokens: list[str], depth: int) -> float:
    token = tokens.pop()
    if token in ("+", "-"):
        value = _expression(tokens, SIGN_BINDS, depth + 1)
        return -value if token == "-" else value
    if token == "(":
        value = _expression(tokens, 0, depth + 1)
        _take(tokens, ")")
        return value
    if token[0].isalpha():
        function = FUNCTIONS[token.removeprefix("math.").removeprefix("np.")]
        _take(tokens, "(")
        arguments = [_expression(tokens, 0, depth + 1)]
        while tokens[-1] == ",":
            tokens.pop()
            arguments.append(_expression(tokens, 0, depth + 1))
        _take(tokens, ")")
        return function(*arguments)
    if not token.isascii():  # float() reads the digits of every script
        raise ValueError(f"expected a number, got {token}")
    return float(token)


def _take(tokens: list[str], expected: str) -> None:
    if tokens.pop() != expected:
        raise ValueError(f"expected {expected}")
