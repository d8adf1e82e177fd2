"""Controllers that move a split: what a canary and an adaptive experiment have in common.

Such a controller reads where it stands, looks, decides by a pure function, writes the decision down
with its evidence, and deploys a split, but only over what it has deployed itself.
"""
