"""Whether it is time to train again: what is known, and the rules that read it."""
