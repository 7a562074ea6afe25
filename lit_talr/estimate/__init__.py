"""Memory and time of a run, before it: ``lit-talr estimate``."""

from lit_talr.estimate.command import estimate as estimate
