"""Trained weights as a model folder, tensor by tensor: out of checkpoints of every strategy, and out of a model that is being trained."""

from lit_talr.export.command import export

__all__ = ["export"]
