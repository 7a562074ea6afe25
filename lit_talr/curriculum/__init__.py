"""``lit-talr curriculum``: how the supervised tokens of runs fared, epoch by epoch."""

from lit_talr.curriculum.show import curriculum

__all__ = ["curriculum"]
