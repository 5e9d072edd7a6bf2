#!/usr/bin/env python3
"""How exact the bf16 gradients of train_llama are, next to those of transformers in bf16.

Both are held against float64 on the same weights, rounded to bf16, and the same tokens:

    ./train_llama --model DIR --train FILE.txt --seq-len 64 --dtype bf16 --dump-grads grads.safetensors
    bench/compare_bf16.py DIR grads.safetensors

Needs torch, transformers and safetensors. Exit status: 0 when the error is at most --factor times that of
transformers, 1 when not, 2 bad usage or input.
"""

import argparse
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scripts"))
from compare_with_transformers import (InputError, load_model, loss_and_gradients, make_exact,  # noqa: E402
                                       read_tensors)


def gradients(model, tokens, labels):
    """Gradients on the CPU in float64, by name, of the model wherever and in whatever type it is."""
    device = next(model.parameters()).device
    loss_and_gradients(model, [(tokens.to(device), labels.to(device))])
    return {name: p.grad.detach().cpu().double() for name, p in model.named_parameters()}


def distance(found, expected):
    return sum((found[name].double() - expected[name]).square().sum().item() for name in expected) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", help="Hugging Face folder")
    parser.add_argument("grads", metavar="GRADS", help="what --dtype bf16 --dump-grads wrote")
    parser.add_argument("--factor", type=float, default=1.2, help="largest error that passes, as a multiple of "
                        "transformers' (default 1.2)")
    args = parser.parse_args()
    try:
        dump = read_tensors(args.grads, ("loss", "input_ids", "labels"))
        tokens, labels = dump["input_ids"].long(), dump["labels"].long()
        model = load_model(args.model, torch.float32).bfloat16()
        exact = gradients(make_exact(model), tokens, labels)
        model = load_model(args.model, torch.float32).bfloat16()
        if torch.cuda.is_available():
            model.cuda()
        theirs = gradients(model, tokens, labels)
        missing = exact.keys() - dump.keys()
        if missing:
            raise InputError(f"{args.grads}: no gradient of {', '.join(sorted(missing)[:8])}")
    except InputError as error:
        print(f"compare_bf16: {error}", file=sys.stderr)
        return 2
    norm = sum(g.square().sum().item() for g in exact.values()) ** 0.5
    our_error, their_error = distance(dump, exact) / norm, distance(theirs, exact) / norm
    ok = our_error <= args.factor * their_error
    print(f"{'PASS' if ok else 'FAIL'}: bf16 gradients are off by {our_error:.3e} of their norm, transformers' by "
          f"{their_error:.3e}: {our_error / their_error:.2f} times, at most {args.factor:g}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
