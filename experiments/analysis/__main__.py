"""`python -m experiments.analysis`: the `exp` commands as a process of their own.

For who must stay light, the gateway above all: the statistics' libraries load in this process and
not in the caller's, and it gives way to processes that serve.
"""

import os

from experiments.cli import exp_app

_NICENESS = 10

if __name__ == "__main__":
    os.nice(_NICENESS)
    exp_app(prog_name="python -m experiments.analysis")
