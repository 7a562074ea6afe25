"""``lit-talr diagnose``: which remedy a short Standard run speaks for."""

from lit_talr.diagnose.command import diagnose

__all__ = ["diagnose"]
