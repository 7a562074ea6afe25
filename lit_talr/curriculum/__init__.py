"""``lit-talr curriculum``: how probable the supervised tokens of runs are, epoch by epoch."""

from lit_talr.curriculum.show import curriculum

__all__ = ["curriculum"]
