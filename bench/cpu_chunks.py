#!/usr/bin/env python3
"""What mini-sequences cost on the CPU: the time of a step over the rows of a chunk.

    bench/cpu_chunks.py [--lengths 512 2048 8192] [--chunks 256 1024 4096] [--layers 2] [--seconds 60] [--keep cpu_chunks]

Each length runs whole (chunks off), whole once more, with the automatic choice, and with every size below its own, for
MLP and LM head alike. A machine's speed drifts by more than what is looked for. So all of a length run side by side, one
at a time: one takes a step while the others are stopped, in an order that is drawn anew each round. of_whole: the mean
of a setting's steps against the mean of the whole ones, with its standard error; each gets about --seconds, two steps
at least. The second whole one shows what the measurement itself is good for.
"""
import os
import random
import re
import signal
import statistics
import subprocess
import tempfile
import time

import bench_common as bench


def settings(length, chunks):
    """Flags of each setting, by name."""
    flags = {"whole": ["--mlp-chunk", "0", "--head-chunk", "0"]}
    flags["whole again"] = flags["whole"]
    flags["auto"] = []
    for rows in chunks:
        if rows < length:
            flags[rows] = ["--mlp-chunk", str(rows), "--head-chunk", str(rows)]
    return flags


class Run:
    """A training run that takes a step when it is told to, and stands still else."""

    def __init__(self, model, tokens, length, flags):
        self.process = subprocess.Popen(
            bench.command(model, tokens, length, 1000000, bench.threads(), *flags), stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            found = re.match(r"# mini-sequences: MLP (\d+) rows, LM head (\d+) rows", line)
            if found:
                self.rows = [int(n) for n in found.groups()]
            if line.startswith("step "):
                break
        else:
            bench.fail(f"{' '.join(self.process.args)}: exit status {self.process.wait()}")
        os.kill(self.process.pid, signal.SIGSTOP)

    def step(self):
        """Seconds of one step."""
        begin = time.monotonic()
        os.kill(self.process.pid, signal.SIGCONT)
        line = self.process.stdout.readline()
        seconds = time.monotonic() - begin
        os.kill(self.process.pid, signal.SIGSTOP)
        if not line.startswith("step "):
            bench.fail(f"{' '.join(self.process.args)}: found {line!r} where a step's line was expected")
        return seconds

    def end(self):
        self.process.kill()
        self.process.wait()


def measure(runs, budget):
    """The seconds of each run's steps, by name."""
    seconds = {name: [] for name in runs}
    while len(seconds["whole"]) < 2 or sum(seconds["whole"]) < budget:
        for name in random.sample(list(runs), len(runs)):
            seconds[name].append(runs[name].step())
    return seconds


def main():
    parser = bench.arguments(__doc__, [512, 2048, 8192], None)
    parser.add_argument("--chunks", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096], metavar="ROWS")
    parser.add_argument("--seconds", type=float, default=60, help="for the steps of each setting")
    parser.set_defaults(layers=2)
    args = bench.parse(parser)
    result = bench.Result("cpu_chunks", layers=args.layers, C=bench.C, V=bench.V)
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 4 * max(args.lengths) + 1)
        for length in args.lengths:
            runs = {}
            try:
                for name, flags in settings(length, args.chunks).items():
                    runs[name] = Run(folder, tokens, length, flags)
                seconds = measure(runs, args.seconds)
            finally:
                for run in runs.values():
                    run.end()
            whole = statistics.mean(seconds["whole"] + seconds["whole again"])
            for name, steps in seconds.items():
                error = statistics.stdev(steps) / len(steps) ** 0.5
                result.add(T=length, chunk=name, mlp_rows=runs[name].rows[0], head_rows=runs[name].rows[1],
                           step_s=round(statistics.mean(steps), 4), of_whole=round(statistics.mean(steps) / whole, 4),
                           error=round(error / whole, 4))
    result.write(args.keep)


if __name__ == "__main__":
    main()
