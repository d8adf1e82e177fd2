"""Who holds a slot: admission of waiting jobs, and taking slots and memory back from lesser ones.

Pure bookkeeping over `Sharing`, which owns the memory, and `WaitingLine`.
"""

import time
from collections.abc import Callable

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.service_time import ServiceTime
from serve_app.engines.llama_cpp.sharing import Sharing
from serve_app.engines.llama_cpp.waiting import RANK, WaitingLine

_HEADROOM_TOKENS = 128
"""KV cells for the answer that must be free before a job is admitted beside others."""
_MAX_OVERTAKEN = 8
"""Jobs that may go before one that finds no KV memory; then the ones behind it wait too."""
_MAX_TRIED = 8
"""Jobs without memory that one turn looks at: each costs a search for its prefix."""


class Seats:
    """The slots of one context, and the line for them.

    Args:
        sharing: Gives jobs their KV memory.
        n_slots: Jobs that run together.
        preemption: Whether a job may take the slot or the memory of one of a lesser class.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        sharing: Sharing,
        n_slots: int,
        *,
        preemption: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waiting = WaitingLine(clock)
        self.running: list[Job] = []
        """In the order of their admission."""
        self.n_preempted = 0
        self.service_time = ServiceTime()
        self._clock = clock
        self._sharing = sharing
        self._n_slots = n_slots
        self._preemption = preemption

    def admit(self) -> None:
        """Give free slots, and those of lesser jobs, to jobs that wait, as KV memory allows.

        The line's order holds, with two exceptions: a job takes the slot of one of a lesser class,
        and a job for which there is no memory may be overtaken, a bounded number of times.
        """
        if not self._may_admit():
            return
        without_memory: list[Job] = []
        for job in self.waiting.in_order():
            if len(self.running) >= self._n_slots:
                victim = self._lesser(job)
                if victim is None:
                    continue  # a promoted job may stand before others that could take a slot
                if not self._could_fit(job):
                    continue
                self.preempt(victim)
            if not self._find_memory(job):
                without_memory.append(job)
                if job.n_overtaken >= _MAX_OVERTAKEN or len(without_memory) >= _MAX_TRIED:
                    return
                continue
            for other in without_memory:
                other.n_overtaken += 1
            self.waiting.seat(job)
            job.seated_at = self._clock()
            self._sharing.enter(job)
            self.running.append(job)
            if any(other.n_overtaken >= _MAX_OVERTAKEN for other in without_memory):
                return

    def leave(self, job: Job, *, keep: bool, answered: bool = False) -> None:
        """Take a job out, wherever it is.

        Args:
            job: Waiting or running.
            keep: Leave its KV memory to the prefix cache.
            answered: Whether its answer is complete, so that its time in a slot says something.
        """
        if job.seq_id is None:
            if job in self.waiting:
                self.waiting.remove(job)
            return
        self._give_back(job, keep=keep)
        if answered:
            self.service_time.record(job.slot_s)

    def preempt(self, job: Job) -> None:
        """Send a running job back to the line.

        Its KV memory goes to the prefix cache, where it finds it again if nobody needed the room;
        its text, its sampler and its grammar stay as they are.
        """
        self._give_back(job, keep=True)
        job.to_waiting()
        self.n_preempted += 1
        self.waiting.add(job)

    def last(self) -> Job:
        """Return the running job to part with first: of the least class, the newest."""
        return max(reversed(self.running), key=_dispensable)

    def hopeless(self) -> list[tuple[Job, float]]:
        """Return the waiting jobs that will miss their deadline, with the seconds they would wait.

        Those before a job take all slots at least once per `n_slots` of them; how long that takes
        has been learned, and is taken at its least.
        """
        now, least_s = self._clock(), self.service_time.least_s
        found: list[tuple[Job, float]] = []
        n_before = 0
        for job in self.waiting.in_order():
            wait_s = n_before // self._n_slots * least_s
            if job.due is not None and wait_s and now + wait_s > job.due:
                found.append((job, wait_s))
            else:
                n_before += 1
        return found

    def _may_admit(self) -> bool:
        if not len(self.waiting):
            return False
        if len(self.running) < self._n_slots:
            return True
        first = min(RANK[job.priority] for job in self.waiting)
        return _dispensable(self.last()) > first

    def _lesser(self, job: Job) -> Job | None:
        """Return the running job whose slot this one may take, None if there is none."""
        if not self.running or not self._preemption:
            return None
        victim = self.last()
        return victim if _dispensable(victim) > RANK[job.priority] else None

    def _could_fit(self, job: Job) -> bool:
        # Whether there is memory once all lesser jobs are out: nobody is sent away in vain.
        rank = RANK[job.priority]
        lesser = [other for other in self.running if _dispensable(other) > rank]
        return self._sharing.fits_without(lesser, job, _headroom(job))

    def _find_memory(self, job: Job) -> bool:
        while not self._sharing.make_room_for(job, _headroom(job), must_fit=bool(self.running)):
            victim = self._lesser(job)
            if victim is None or not self._could_fit(job):
                return False
            self.preempt(victim)
        return True

    def _give_back(self, job: Job, *, keep: bool) -> None:
        self.running.remove(job)
        self.waiting.unseat(job)
        job.slot_s += self._clock() - job.seated_at
        self._sharing.leave(job, keep=keep)


def _dispensable(job: Job) -> int:
    """Return how easily a running job is parted with; one that was promoted keeps its slot."""
    return 0 if job.is_promoted else RANK[job.priority]


def _headroom(job: Job) -> int:
    return min(job.max_length - len(job.tokens), _HEADROOM_TOKENS)
