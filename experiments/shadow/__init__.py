"""Shadow traffic compared: a variant that answers nobody, beside the one that answers."""
