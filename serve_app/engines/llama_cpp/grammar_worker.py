"""The helper process in which a grammar is tried before the replica sees it.

It reads grammars from standard input and answers with one byte each. It may crash or be killed at
any time: that is what it is for. It ends when its input does, which is when its parent has gone.

Run as `python -m serve_app.engines.llama_cpp.grammar_worker MODEL.gguf`.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.grammar import CANDIDATE, candidate_array
from serve_app.engines.llama_cpp.grammar_wire import ACCEPTED, HEADER, READY, REFUSED
from serve_app.engines.llama_cpp.model import Model

_MEMORY_BYTES = 512 << 20
"""Address space beyond what the loaded tokenizer takes."""
_CPU_S = 2
_WALL_S = 3
"""The parent waits less long; these end the process when there is no parent any more."""


def main(argv: list[str]) -> int:
    """Serve until the input ends.

    Args:
        argv: Path of the model file, of which only the tokenizer is read.
    """
    model = Model(Path(argv[0]), vocab_only=True)
    _limit_memory()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _answer(sink, READY)
    while header := source.read(HEADER.size):
        (size,) = HEADER.unpack(header)
        gbnf = source.read(size)
        _limit_time()
        ok = _try(model, gbnf)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _answer(sink, ACCEPTED if ok else REFUSED)
    return 0


def _try(model: Model, gbnf: bytes) -> bool:
    # What the replica will do: compile, clone, and test every token of the vocabulary.
    lib = library()
    sampler = lib.llama_sampler_init_grammar(model.vocab, gbnf, b"root")
    if not sampler:
        return False
    clone = lib.llama_sampler_clone(sampler)
    allowed = _allowed(lib, clone, model.n_vocab)
    lib.llama_sampler_free(clone)
    lib.llama_sampler_free(sampler)
    return allowed > 0


def _allowed(lib: Any, sampler: Any, n_vocab: int) -> int:
    candidates = np.zeros(n_vocab, dtype=CANDIDATE)
    candidates["id"] = np.arange(n_vocab)
    lib.llama_sampler_apply(sampler, ctypes.byref(candidate_array(lib, candidates)))
    return int(np.isfinite(candidates["logit"]).sum())


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + _CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, _WALL_S)  # SIGALRM, unhandled, ends the process


def _answer(sink: BinaryIO, byte: bytes) -> None:
    sink.write(byte)
    sink.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
