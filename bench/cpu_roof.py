#!/usr/bin/env python3
"""How close a training step on the CPU comes to its matrix library.

    bench/cpu_roof.py [--lengths 2048 8192] [--steps 3] [--layers 12] [--keep cpu_roof]

A model of C = 768, V = 32000 takes some steps with --profile. The share of the roof is the floating-point
operations of all products that a step executed, recomputation included, causal attention without what its mask hides
(2 products forward, 5 backward), divided by the rate of sgemm (best of the same run, measured between the steps)
and by the time of the step (the fastest after the first, and the mean). Where others use the machine as well,
share_of_roof_cpu says more: both rates for a second of processor time instead, means. It does not see threads that wait
asleep (OMP_WAIT_POLICY=passive).
"""
import os
import tempfile

import bench_common as bench


def main():
    args = bench.parse(bench.arguments(__doc__, [2048, 8192], 3))
    result = bench.Result("cpu_roof", layers=args.layers, C=bench.C, V=bench.V)
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 4 * max(args.lengths) + 1)
        for length in args.lengths:
            p, _ = bench.train(folder, tokens, length, args.steps + 1, bench.threads())
            seconds = p["product_flops"] / p["roof_flops_per_s"]
            rows = [dict(name=f"{o['name']} {o['part']}".strip(), share=round(o["seconds"] / p["step_s"], 4),
                         of_roof=round(o["flops"] / p["roof_flops_per_s"] / o["seconds"] if o["flops"] else
                                       o["bytes"] / p["roof_bytes_per_s"] / o["seconds"], 3))
                    for o in p["operations"] if o["seconds"] > 0.002 * p["step_s"]]
            result.add(T=length, share_of_roof=round(seconds / p["best_step_s"], 4),
                       share_of_roof_mean=round(seconds / p["step_s"], 4),
                       share_of_roof_cpu=round(p["product_flops"] / p["roof_flops_per_cpu_s"] / p["step_cpu_s"], 4),
                       steps_s=p["steps_s"],
                       product_tflop=round(p["product_flops"] / 1e12, 4),
                       sgemm_gflops=round(p["roof_flops_per_s"] / 1e9, 1), copy_gb_per_s=round(p["roof_bytes_per_s"] / 1e9, 1),
                       outside_share=round(p["outside_s"] / p["step_s"], 4), operations=rows)
    result.write(args.keep)


if __name__ == "__main__":
    main()
