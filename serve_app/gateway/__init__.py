"""The gateway: OpenAI requests in, a variant's answer out, every decision on record."""
