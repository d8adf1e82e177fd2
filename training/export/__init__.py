"""From a trained network to a quantised GGUF file, with proof that it is the same model."""
