"""Ask the cloud under random privacy rules, and look for forbidden bytes in all that is on the wire.

Frames say by their pixels what of them may leave; a server that sees the raw bytes of TCP looks for the others,
and for pictures that are larger than they may be. Ways to ask (`predict`, `apredict`, `stream`), modes, encodings,
hedges, waves of several inputs, caches, budgets and outboxes are drawn with the rules, and the server refuses, resets
and delays, so that requests are sent again. A second endpoint gets them where the first dies, cannot answer or is
slow, made anew where it takes other encodings; messages that a server finds too large come again smaller.

example:
  python tools/fuzz_privacy.py --count 100000
  python tools/fuzz_privacy.py --count 1000000 --processes 2 --seed 7
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

from outside.pairs import build_pair  # noqa: E402 - after the path is set, as the next lines
from outside.services import Service  # noqa: E402
from outside.wirefuzz import fuzz_wire, metadata_of  # noqa: E402

EVERY = 10.0  # seconds


def run(index, folder, metadata, count, seed, results):
    """Fuzz in this process; put into the queue (index, counts, leaks or None)."""
    import logging

    logging.getLogger("edge_sdk").setLevel(logging.CRITICAL)
    said = 0.0

    def say(counts):
        nonlocal said
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            results.put((index, counts, None))

    try:
        # the pair's bytes are the same each time: a folder of its own for each process
        folder = Path(folder) / str(index)
        folder.mkdir()
        results.put((index, *fuzz_wire(build_pair(folder), metadata, count, seed, say)))
    except BaseException as error:  # said, not lost with the process
        results.put((index, {}, [repr(error)]))
        raise


def main():
    """Fuzz; 1 where something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=100_000, metavar="N", help="inputs to arrive (default 100000)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="clients, each with a server (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first process (default 0)")
    args = parser.parse_args()
    if args.count < 1 or args.processes < 1:
        parser.error("--count and --processes should be at least 1")
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        pair = build_pair(Path(folder))
        with Service("serve", pair.cloud, "--grpc-port", "0") as service:
            metadata = metadata_of(service.ready["grpc"], service.ready["models"])
        share = -(-args.count // args.processes)
        workers = [
            spawn.Process(target=run, args=(i, folder, metadata, share, args.seed + i, results))
            for i in range(args.processes)
        ]
        for worker in workers:
            worker.start()
        latest, leaks, running = [{} for _ in workers], [], args.processes
        while running:
            index, latest[index], found = results.get()
            if found is not None:
                running -= 1
                leaks += found
            total = {}
            for counts in latest:
                for name, value in counts.items():
                    total[name] = total.get(name, 0) + value
            seconds = time.monotonic() - began
            arrived = total.get("inputs", 0)
            print(
                f"{seconds:.0f} s: {arrived} of {args.count} inputs arrived ({arrived / seconds:.0f}/s), "
                f"{total.get('calls', 0) / seconds:.0f} calls/s, {len(leaks)} leaks;",
                ", ".join(f"{name} {value}" for name, value in sorted(total.items())),
                flush=True,
            )
        for worker in workers:
            worker.join()
    for leak in leaks:
        print("leak:", leak)
    print(f"{arrived} inputs on the wire, {len(leaks)} leaks")
    return int(bool(leaks))


if __name__ == "__main__":
    sys.exit(main())
