"""The gate between an evaluated model and its promotion.

`run` reads what an evaluation wrote, `floors` judges it against absolute limits, `comparison`
against the champion item by item, `engine` makes one verdict of the checks, `report` writes it.
The thresholds, each with its origin, are in `policy`.
"""
