#!/usr/bin/env python3
"""What mini-sequences cost on the CPU: the time of a step over the rows of a chunk.

    bench/cpu_chunks.py PROGRAM [--lengths 512 2048 8192] [--chunks 256 1024 4096] [--layers 12] [--keep cpu_chunks]

PROGRAM is the cpu_chunks that `make bench` builds. For each length, the automatic choice and every size below the length
is compared with all rows at once: the MLP of a layer (forward, again, backward) and the LM head (forward and gradient),
computed in turns by one process. mlp, head: the median ratio of a turn, and its standard error (of few turns, its order
of magnitude). of_whole: from these, the time of a whole step of a model with --layers layers, which is measured too, with
both in chunks of that size; error: that of the two ratios. Steps themselves are no good for this on a machine that others
use: from one to the next their time moves by several percent.
"""
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

import bench_common as bench


def automatic_rows(model, tokens, length):
    """The rows that a run chooses: of the MLP, of the head."""
    out, _ = bench.run([*bench.command(model, tokens, length, 1, bench.threads()), "--plan"])
    return [int(n) for n in re.search(r"MLP (\d+) rows, LM head (\d+) rows", out).groups()]


def ratio(turns):
    """Median of chunks / whole, and its standard error, by the quartiles."""
    ratios = [chunks / whole for whole, chunks in turns]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, 1.253 * (high - low) / 1.349 / len(ratios) ** 0.5


def compare(program, length, turns, seconds, mlp_rows, head_rows):
    """{(unit, rows): seconds of the turns}"""
    command = [str(program), *(str(n) for n in (bench.C, bench.FF, bench.V, length, turns, seconds)),
               *(f"mlp:{n}" for n in mlp_rows), *(f"head:{n}" for n in head_rows)]
    found = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            row = json.loads(line)
            found[row["unit"], row["rows"]] = row["turns"]
    if process.returncode:
        bench.fail(f"{' '.join(command)}: exit status {process.returncode}")
    return found


def main():
    parser = bench.arguments(__doc__, [512, 2048, 8192], 2)
    parser.add_argument("units", type=pathlib.Path, metavar="PROGRAM")
    parser.add_argument("--chunks", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096], metavar="ROWS")
    parser.add_argument("--turns", type=int, default=5, help="of each size and unit, at least")
    parser.add_argument("--seconds", type=float, default=20, help="for each size and unit, if turns are short")
    args = bench.parse(parser)
    if args.turns < 2:
        bench.fail(f"--turns: found {args.turns}, expected at least 2, which is what a standard error takes.")
    result = bench.Result("cpu_chunks", layers=args.layers, C=bench.C, V=bench.V)
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 4 * max(args.lengths) + 1)
        for length in args.lengths:
            settings = {"auto": automatic_rows(folder, tokens, length),
                        **{rows: [rows, rows] for rows in args.chunks if rows < length}}
            p, _ = bench.train(folder, tokens, length, args.steps + 1, bench.threads(), "--mlp-chunk", "0",
                               "--head-chunk", "0")
            step = statistics.median(p["steps_s"])
            of_unit = [sorted({rows[i] for rows in settings.values() if rows[i] < length}) for i in range(2)]
            turns = compare(args.units, length, args.turns, args.seconds, *of_unit) if any(of_unit) else {}
            for name, rows in settings.items():
                more, error, row = 0, 0, {}
                for unit, n, times in ("mlp", rows[0], args.layers), ("head", rows[1], 1):
                    if n >= length:
                        row[unit] = 1
                        continue
                    row[unit], of_ratio = (round(x, 4) for x in ratio(turns[unit, n]))
                    row[unit + "_error"] = of_ratio
                    share = times * statistics.median(whole for whole, _ in turns[unit, n]) / step
                    more += share * (row[unit] - 1)
                    error += (share * of_ratio) ** 2
                result.add(T=length, chunk=name, mlp_rows=rows[0], head_rows=rows[1], **row, step_s=round(step, 3),
                           of_whole=round(1 + more, 4), error=round(error ** 0.5, 4))
    result.write(args.keep)


if __name__ == "__main__":
    main()
