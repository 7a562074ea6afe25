"""Models: backbone and head, adapters, sharding, generation."""
