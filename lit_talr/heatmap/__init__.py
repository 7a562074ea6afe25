"""A page of text whose supervised tokens are coloured by their probability under a base model and a tuned one."""

from lit_talr.heatmap.command import heatmap

__all__ = ["heatmap"]
