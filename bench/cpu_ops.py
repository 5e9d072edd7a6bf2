#!/usr/bin/env python3
"""Speed of attention and row kernels on the CPU against sgemm and memcpy.

    bench/cpu_ops.py PROGRAM [--quick] [--keep cpu_ops]

PROGRAM is the cpu_ops that `make bench` builds. Attention: operations of 2 products forward
and 5 backward over the pairs of a query and a key it sees, against the rate of sgemm. Row kernels: the bytes that have to
be read and written, against those that memcpy reads and writes, on buffers that no cache holds. Each rate is the best of
some repetitions, taken in turns with its roof. Seconds are of processor time on every thread: others who use the machine
hardly change them, but threads that wait asleep (OMP_WAIT_POLICY=passive) are not seen.
"""
import argparse
import json
import pathlib
import subprocess

import bench_common as bench


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, metavar="PROGRAM")
    parser.add_argument("--quick", action="store_true", help="shorter sequences, fewer repetitions")
    parser.add_argument("--keep", metavar="NAME", help="write the result to bench/results/NAME.json")
    args = bench.parse(parser)
    result = bench.Result("cpu_ops")
    command = [str(args.program)] + ["--quick"] * args.quick
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            result.add(**json.loads(line))
    if process.returncode:
        bench.fail(f"{args.program}: exit status {process.returncode}")
    result.write(args.keep)


if __name__ == "__main__":
    main()
