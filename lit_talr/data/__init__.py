"""Conversations to tokens, and tokens to optimizer steps; knows no model."""
