"""Models that ship with this package, and their tokenizer."""
