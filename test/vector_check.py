#!/usr/bin/env python3
"""Whether the hot loops of the CPU are vectorised, on processors with AVX2 and with AVX-512.

    test/vector_check.py COMPILER [FLAG ...]       (make vector-check; V=1 prints all numbers)

The row kernels, the softmax of the attention and its products are compiled to assembly for x86-64-v3 and -v4. A small change, or
another release of the compiler, can make it give up on a loop without a word: then a function has fewer packed
multiplications, additions, divisions and roots of 256 or 512 bits than TABLE asks for, and the check fails. The numbers
are three quarters of what gcc 12 makes; a function that has been inlined elsewhere or renamed
fails as well.
"""
import concurrent.futures
import os
import re
import subprocess
import sys

ROW = "launch_lanes<%s>"
SUMS = "launch_lanes<ColumnSegment<%s>>"
TABLE = {  # file: {function without its arguments: packed instructions on v3, on v4}
    "rmsnorm": {ROW % "RmsnormForward<float>": (6, 10), ROW % "RmsnormForward<bf16>": (12, 21),
                SUMS % "RmsnormBackward<float>": (12, 19), ROW % "AddSegments": (1, 3)},
    "glu": {ROW % "GluForward<float, (Activation)0>": (12, 25), ROW % "GluForward<float, (Activation)1>": (15, 30),
            ROW % "GluForward<bf16, (Activation)0>": (76, 153), ROW % "GluBackward<float, (Activation)0>": (16, 33),
            ROW % "GluBackward<float, (Activation)1>": (21, 42), ROW % "GluBackward<bf16, (Activation)0>": (99, 198)},
    "cross_entropy": {ROW % "CrossEntropyForward<float>": (24, 25), ROW % "CrossEntropyForward<bf16>": (49, 48),
                      ROW % "CrossEntropyForwardBackward<float>": (14, 27),
                      ROW % "CrossEntropyForwardBackward<bf16>": (72, 93)},
    "qk_prepare": {ROW % "QkForward<float>": (36, 69), ROW % "RopeBackward<float>": (19, 39),
                   SUMS % "QkBackward<float>": (52, 90)},
    "adamw": {ROW % "Several<AdamWUpdate<float, float>>": (33, 66), ROW % "Several<AdamWUpdate<bf16, bf16>>": (66, 132),
              ROW % "Several<AdamW8Update<float>>": (45, 24), ROW % "SquaresOfPieces<float>": (18, 18)},
    "attention_forward": {"softmax_step": (13, 26)},
    "attention_backward": {"score_gradients<float>": (10, 21), "score_gradients<bf16>": (10, 21)},
    "tile_multiply": {"columns_2": (39, 39), "columns_1": (19, 19)},
}
PACKED = re.compile(r"\tv(?:fn?m(?:add|sub)\d+|mul|add|sub|div|sqrt|max)p[sd]\t.*%[yz]mm")
LABEL = re.compile(r"^([A-Za-z_].*):$")


def functions(path, compiler, flags, architecture):
    """Packed instructions by function, of a file compiled for the architecture."""
    command = [compiler, "-x", "c++", "-S", "-o", "-", *flags, f"-march={architecture}", path]
    assembly = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    text = subprocess.run(["c++filt"], input=assembly, stdout=subprocess.PIPE, check=True).stdout.decode()
    counts, name = {}, None
    for line in text.splitlines():
        label = LABEL.match(line)
        if label:
            # "void f<A>(B) [clone .x]" -> "f<A>"
            name = re.sub("^(?:void|auto|float|double) ", "", label.group(1))
            name = re.sub("> (?=>)", ">", name)
            name = re.sub(r"\((?!Activation\)).*", "", name).split(" [clone")[0]
            counts.setdefault(name, 0)
        elif name and PACKED.search(line):
            counts[name] += 1
    return counts


def source(file):
    path = f"src/ops/{file}.cu"
    return path if os.path.exists(path) else path[:-1]


def check(task):
    file, architecture, compiler, flags = task
    counts = functions(source(file), compiler, flags, architecture)
    lines, ok = [], True
    for name, (v3, v4) in TABLE[file].items():
        least = v3 if architecture.endswith("3") else v4
        found = counts.get(name)
        good = found is not None and found >= least
        ok = ok and good
        lines.append(f"{'ok  ' if good else 'FAIL'} {architecture} {name}: "
                     f"{'no such function' if found is None else f'{found} packed'}, at least {least}")
    return ok, lines


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    tasks = [(file, f"x86-64-{v}", sys.argv[1], sys.argv[2:]) for file in TABLE for v in ("v3", "v4")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(check, tasks))
    for _, lines in results:
        for line in lines:
            if line.startswith("FAIL") or os.environ.get("V"):
                print(line)
    good = all(ok for ok, _ in results)
    print(f"vector-check: {sum(len(lines) for _, lines in results)} functions, "
          f"{'all are vectorised' if good else 'see the lines that FAIL'}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
