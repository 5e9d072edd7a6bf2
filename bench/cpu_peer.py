#!/usr/bin/env python3
"""Speed and memory of a training step on the CPU against Hugging Face transformers.

    PYTHON bench/cpu_peer.py [--lengths 2048 8192] [--steps 2] [--repeat 2] [--layers 12] [--keep cpu_peer]

PYTHON has torch and transformers. Both sides train the same model in fp32 with AdamW and clipping, on the same number
of threads, one sequence a step; transformers with gradient checkpointing, torch's sdpa attention and its fused AdamW.
They take turns, in processes of their own; tokens/s are those of the median step after each process' first. The rates
of both matrix libraries are measured between those steps (best), and speed_at_equal_sgemm is the ratio of the
speeds after each is divided by its library's rate. What ends in _cpu counts seconds of processor time, means, instead of
time: what others do on the machine hardly changes that. Memory is the peak of a process' resident size
(ours in its first step, before the profile measures copies; later ones take no more);
`rest` is that without weights, gradients and moments (16 bytes a parameter). Python and torch alone are in it, and
given too (their_base).
share_of_roof_cpu is that of bench/cpu_roof.py.
"""
import json
import os
import statistics
import sys
import tempfile
import time

import bench_common as bench


def resident_bytes():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sgemm_rates(torch, seconds=0.2, n=1024):
    """Floating-point operations a second, the best; a second of a processor, the mean."""
    a, b, c = (torch.ones(n, n) for _ in range(3))
    best, count, start, cpu = 0.0, 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        torch.mm(a, b.T, out=c)
        best = max(best, 2.0 * n**3 / (time.perf_counter() - begin))
        count += 1
    return best, 2.0 * n**3 * count / (time.process_time() - cpu)


def work(folder, length, steps, checkpointing):
    """transformers, in a process of its own; prints what it measured."""
    import torch
    import transformers
    torch.set_num_threads(bench.threads())
    torch.manual_seed(1)
    base = resident_bytes()
    config = transformers.AutoConfig.from_pretrained(folder)
    config.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    seconds, cpu_seconds, rate, cpu_rate = [], [], 0.0, 0.0
    for _ in range(steps):
        tokens = torch.randint(config.vocab_size, (1, length))
        start, cpu_start = time.perf_counter(), time.process_time()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        rate, cpu_rate = map(max, (rate, cpu_rate), sgemm_rates(torch))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "rate": rate, "cpu_rate": cpu_rate, "base": base,
                      "versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}))


def theirs(folder, length, steps, checkpointing=True):
    out, peak = bench.run([sys.executable, __file__, "--work", folder, str(length), str(steps), str(int(checkpointing))],
                          {"OMP_NUM_THREADS": str(bench.threads())})
    return {**json.loads(out.splitlines()[-1]), "peak": peak}


def compare(folder, tokens, length, args):
    ours, their = [], []
    for _ in range(args.repeat):
        ours.append(bench.train(folder, tokens, length, args.steps + 1, bench.threads())[0])
        their.append(theirs(folder, length, args.steps + 1))
    seconds = statistics.median(s for o in ours for s in o["steps_s"])
    their_seconds = statistics.median(s for t in their for s in t["seconds"][1:])
    rate, their_rate = max(o["roof_flops_per_s"] for o in ours), max(t["rate"] for t in their)
    cpu = statistics.mean(o["step_cpu_s"] for o in ours)
    their_cpu = statistics.mean(s for t in their for s in t["cpu_seconds"][1:])
    cpu_rate, their_cpu_rate = max(o["roof_flops_per_cpu_s"] for o in ours), max(t["cpu_rate"] for t in their)
    peak = max(o["first_step_peak_bytes"] for o in ours)
    their_peak = min(t["peak"] for t in their)
    state = 16 * bench.parameters(args.layers)
    flops = ours[0]["product_flops"]
    return dict(T=length, tokens_per_s=round(length / seconds, 1), their_tokens_per_s=round(length / their_seconds, 1),
                speed=round(their_seconds / seconds, 3), speed_cpu=round(their_cpu / cpu, 3),
                sgemm_gflops=round(rate / 1e9, 1), their_sgemm_gflops=round(their_rate / 1e9, 1),
                sgemm_gflops_cpu=round(cpu_rate / 1e9, 1), their_sgemm_gflops_cpu=round(their_cpu_rate / 1e9, 1),
                speed_at_equal_sgemm=round(their_seconds / seconds * their_rate / rate, 3),
                speed_at_equal_sgemm_cpu=round(their_cpu / cpu * their_cpu_rate / cpu_rate, 3),
                share_of_roof_cpu=round(flops / cpu_rate / cpu, 3), peak_mb=round(peak / 1e6), their_peak_mb=round(their_peak / 1e6), memory=round(peak / their_peak, 3),
                rest_mb=round((peak - state) / 1e6), their_rest_mb=round((their_peak - state) / 1e6),
                memory_of_rest=round((peak - state) / (their_peak - state), 3),
                their_base_mb=round(their[0]["base"] / 1e6), steps_s=[round(s, 3) for o in ours for s in o["steps_s"]],
                their_steps_s=[round(s, 3) for t in their for s in t["seconds"][1:]], peer=their[0]["versions"])


def main():
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
        return
    parser = bench.arguments(__doc__, [2048, 8192], 2)
    parser.add_argument("--repeat", type=int, default=2, help="turns of each side")
    args = bench.parse(parser)
    result = bench.Result("cpu_peer", layers=args.layers, C=bench.C, V=bench.V)
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 4 * max(args.lengths) + 1)
        for length in args.lengths:
            result.add(**compare(folder, tokens, length, args))
    result.write(args.keep)


if __name__ == "__main__":
    main()
