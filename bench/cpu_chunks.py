#!/usr/bin/env python3
"""What mini-sequences cost on the CPU: the time of a step over the rows of a chunk.

    bench/cpu_chunks.py [--lengths 512 2048 8192] [--chunks 256 1024 4096] [--layers 2] [--keep cpu_chunks]

Each length runs whole (chunks off), with the automatic choice, and with every size below its own, for MLP and LM head
alike. The settings take turns, --repeat times, each in a process of its own; of each the fastest step counts.
of_whole: that time against the fastest whole step. of_whole_cpu: the same in seconds of processor time, of each process
the mean, which others who use the machine hardly change.
"""
import os
import re
import tempfile

import bench_common as bench


def settings(length, chunks):
    """Flags of each setting, by name."""
    flags = {"whole": ["--mlp-chunk", "0", "--head-chunk", "0"], "auto": []}
    for rows in chunks:
        if rows < length:
            flags[rows] = ["--mlp-chunk", str(rows), "--head-chunk", str(rows)]
    return flags


def main():
    parser = bench.arguments(__doc__, [512, 2048, 8192], 2)
    parser.add_argument("--chunks", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096], metavar="ROWS")
    parser.add_argument("--repeat", type=int, default=2, help="turns of each setting")
    parser.set_defaults(layers=2)
    args = bench.parse(parser)
    result = bench.Result("cpu_chunks", layers=args.layers, C=bench.C, V=bench.V)
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 4 * max(args.lengths) + 1)
        for length in args.lengths:
            flags, best, cpu, rows = settings(length, args.chunks), {}, {}, {}
            for _ in range(args.repeat):
                for name, f in flags.items():
                    p, text = bench.train(folder, tokens, length, args.steps + 1, bench.threads(), *f)
                    best[name] = min(p["best_step_s"], best.get(name, float("inf")))
                    cpu[name] = min(p["step_cpu_s"], cpu.get(name, float("inf")))
                    rows[name] = [int(n) for n in re.search(r"MLP (\d+) rows, LM head (\d+) rows", text).groups()]
            for name, seconds in best.items():
                result.add(T=length, chunk=name, mlp_rows=rows[name][0], head_rows=rows[name][1],
                           step_s=round(seconds, 4), of_whole=round(seconds / best["whole"], 4),
                           of_whole_cpu=round(cpu[name] / cpu["whole"], 4))
    result.write(args.keep)


if __name__ == "__main__":
    main()
