"""``lit-talr sweep``: rates x remedies x seeds, each trial a real ``fit`` and ``test``, shared among workers."""

from lit_talr.sweep.command import sweep

__all__ = ["sweep"]
