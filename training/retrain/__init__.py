"""From feedback to the next dataset: suggestions, review, guards, merge and split.

`feedback` reads what users said, `suggestions` turns it into examples, `review` holds them until a
person decides, `guards` looks for contamination, `prepare` makes a dataset folder of the rest.
"""
