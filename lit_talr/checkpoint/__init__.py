"""Checkpoints that are whole or not there, exports and merges."""
