"""LoRA fine-tuning of a local Hugging Face base of the Llama family, exported to GGUF."""
