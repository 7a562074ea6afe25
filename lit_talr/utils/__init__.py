"""Files, caches and exchanges between ranks; knows nothing of models or data."""
