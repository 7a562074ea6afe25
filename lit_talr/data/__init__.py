"""From conversations to tokens, and from tokens to optimizer steps; knows no model."""
