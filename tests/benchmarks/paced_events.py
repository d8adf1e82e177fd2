"""Sends events to a cluster's event writer at a steady rate until its standard input ends.

    python -m tests.benchmarks.paced_events 2000

With CARRIL_HOME naming the cluster. Prints `sending` when the first batch is durable, and at the
end the events a second that were.
"""

import asyncio
import itertools
import os
import sys
import threading
import time
from pathlib import Path

import ray

from cluster.local_cluster import ClusterRecord
from serve_app.events.link import WriterLink
from tests.benchmarks.test_events import events

BATCHES_PER_S = 50


def main() -> None:
    """Connect, send, tell."""
    rate = int(sys.argv[1])
    home = Path(os.environ["CARRIL_HOME"])
    record = ClusterRecord.load(home)
    if record is None:
        raise SystemExit(f"no cluster runs under CARRIL_HOME={home}")
    ray.init(address=record.gcs_address, namespace="carril", log_to_driver=False)
    sys.stdout.write(f"{asyncio.run(send(WriterLink(home), rate))}\n")


async def send(link: WriterLink, rate: int) -> float:
    """Send the way gateways do; return how many events a second became durable."""
    source = events(f"paced-{os.getpid()}")
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    await link.append([next(source)])
    sys.stdout.write("sending\n")
    sys.stdout.flush()
    started, n = time.monotonic(), 0
    async with asyncio.TaskGroup() as sending:
        while not ended.is_set():
            batch = list(itertools.islice(source, rate // BATCHES_PER_S))
            sending.create_task(link.append(batch))
            n += len(batch)
            await asyncio.sleep(max(0.0, started + n / rate - time.monotonic()))
    return n / (time.monotonic() - started)


if __name__ == "__main__":
    main()
