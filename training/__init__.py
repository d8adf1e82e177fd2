"""From a dataset to a served model: data, training, export to GGUF, manifest."""
