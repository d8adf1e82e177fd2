"""The whole life of a model as one command: from data to production and back, under traffic."""
