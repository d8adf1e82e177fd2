"""What a linear classifier makes of a message, and how it is laid over a network's first choice."""
