#!/usr/bin/env python3
"""Compares train_llama with Hugging Face transformers on a model of your own.

Gradients: dump the first step of a run, then recompute it here, in float64 on the CPU by default.

    ./train_llama --model DIR --train 'data/*.bin' --seq-len 512 --dtype fp32 --dump-grads grads.safetensors
    scripts/compare_with_transformers.py DIR grads.safetensors

The dump holds `loss` [1], `input_ids` [N, T] and `labels` [N, T] (labels[t] is the target of position t,
already shifted; -1 is not trained on), with --pack `position_ids` [N, T], and under its Hugging Face name every gradient of the mean loss over
the step's valid targets, before clipping.

Logits: load a folder that train_llama saved and compare its logits with given ones. FILE holds `logits`
[N, T, V] and `input_ids` [..., T], of which the first N rows are used.

    scripts/compare_with_transformers.py SAVED_DIR --logits FILE.safetensors

Needs torch, transformers and safetensors (test/oracle/requirements.txt). The machine holds the weights and
their gradients at 8 bytes each (4 with --dtype float32), and the logits of one sequence: use a short
--seq-len. Exit status: 0 within the tolerance, 1 not, 2 bad usage or input.
"""

import argparse
import os
import sys
import types

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # whose modules make_exact() knows
FLOOR = 1e-4  # a gradient's error is relative to at least this part of the global norm: some are 0 in theory
IGNORED = -1


class InputError(Exception):
    pass


def rms_norm_float64(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rotary_float64(self, x, position_ids):
    angle = position_ids[..., None].double() * self.inv_freq
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling


def make_exact(model):
    """Turns a model into float64 throughout. model.double() alone would not: transformers computes the norms
    and the rotary embedding in fp32 whatever the model's type. The rotary frequencies keep the fp32 values
    that transformers computed (they are part of the model), widened."""
    if model.config.model_type not in FAMILIES:
        raise InputError(f"model_type {model.config.model_type!r}: --dtype float64 knows {', '.join(FAMILIES)}; "
                         "use --dtype float32")
    model.double()
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = types.MethodType(rms_norm_float64, module)
        elif kind.endswith("RotaryEmbedding"):
            module.forward = types.MethodType(rotary_float64, module)
    return model


def load_model(folder, dtype):
    """The model of a folder, its stored weights widened to dtype (torch.float32 or torch.float64)."""
    from transformers import AutoModelForCausalLM  # here, so that --help and bad usage answer at once
    from transformers.utils.logging import disable_progress_bar

    if not os.path.isdir(folder):  # else transformers would take it for a name to download
        raise InputError(f"{folder}: no such folder")
    disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa",
                                                             output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:  # a missing weight would be random, silently
            raise InputError(f"{folder}: {problem.replace('_', ' ')}: {', '.join(map(str, sorted(report[problem])))}")
    model.eval()
    return make_exact(model) if dtype == torch.float64 else model


def sum_of_losses(model, input_ids, labels):
    """Sum of the cross-entropies over the valid targets, in the model's type. input_ids, labels [B, T]."""
    logits = model(input_ids=input_ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED,
                                             reduction="sum")


def loss_and_gradients(model, micro_batches):
    """Mean loss over all valid targets of the micro-batches [(input_ids [B, T], labels [B, T]), ...]; leaves
    its gradient in the parameters' .grad. A tied parameter is one parameter with the total gradient."""
    model.zero_grad(set_to_none=True)
    valid = sum(int((labels != IGNORED).sum()) for _, labels in micro_batches)
    total = 0.0
    for input_ids, labels in micro_batches:
        loss = sum_of_losses(model, input_ids, labels) / valid
        loss.backward()
        total += loss.item()
    return total


def relative_error(found, expected, at_least=0.0):
    """L2 norm of the difference, relative to the expected tensor's norm or to at_least, if that is larger."""
    scale = max(expected.double().norm().item(), at_least)
    difference = (found.double() - expected.double()).norm().item()
    return difference / scale if scale > 0 else difference


def global_norm(tensors):
    return sum(t.double().square().sum().item() for t in tensors) ** 0.5


def read_tensors(path, needed):
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {error}") from error
    for name in needed:
        if name not in tensors:
            raise InputError(f"{path}: no tensor {name!r}; found {', '.join(sorted(tensors)[:8])}, ...")
    return tensors


def integers(name, tensor, low, high):
    """A tensor of integers stored as floats, checked to be integers in [low, high)."""
    values = tensor.long()
    if not torch.equal(values.to(tensor.dtype), tensor) or values.min() < low or values.max() >= high:
        raise InputError(f"{name}: found values from {tensor.min().item():g} to {tensor.max().item():g}, "
                         f"expected integers from {low} to {high - 1}")
    return values


def segments_of(row, positions):
    """Where the documents of a packed row begin and end: positions count from 0 in each."""
    starts = (positions[row] == 0).nonzero().flatten().tolist() + [positions.shape[1]]
    return zip(starts, starts[1:])


def compare_gradients(model, path, tolerance, rows):
    dump = read_tensors(path, ("loss", "input_ids", "labels"))
    vocabulary = model.config.vocab_size
    input_ids = integers("input_ids", dump.pop("input_ids"), 0, vocabulary)
    labels = integers("labels", dump.pop("labels"), IGNORED, vocabulary)
    if input_ids.dim() != 2 or input_ids.shape != labels.shape:
        raise InputError(f"input_ids {list(input_ids.shape)} and labels {list(labels.shape)}: expected [N, T] both")
    if not (labels != IGNORED).any():
        raise InputError("labels: every target is -1, there is no loss to compare")
    found_loss = dump.pop("loss").sum().item()

    # A sequence at a time: the gradient of the sum is the sum of the gradients. Packed: a document at a time.
    parts = list(zip(input_ids.split(1), labels.split(1)))
    if "position_ids" in dump:
        positions = integers("position_ids", dump.pop("position_ids"), 0, input_ids.shape[1])
        parts = [(i[:, a:b], t[:, a:b]) for row, (i, t) in enumerate(parts) for a, b in segments_of(row, positions)]
        print(f"packed: {len(parts)} documents, each run alone")
    loss = loss_and_gradients(model, parts)
    expected = {name: p.grad for name, p in model.named_parameters()}

    ok = True
    for name in sorted(expected.keys() - dump.keys()):
        print(f"missing in the dump: {name} {list(expected[name].shape)}")
        ok = False
    for name in sorted(dump.keys() - expected.keys()):
        print(f"not a parameter of the model: {name} {list(dump[name].shape)}")
        ok = False
    norm = global_norm(expected.values())
    table = []
    for name in sorted(expected.keys() & dump.keys()):
        if dump[name].shape != expected[name].shape:
            print(f"{name}: found shape {list(dump[name].shape)}, expected {list(expected[name].shape)}")
            ok = False
            continue
        table.append((relative_error(dump[name], expected[name], FLOOR * norm), name))
    table.sort(key=lambda row: (row[0] == row[0], -row[0]))  # NaN first, then the largest

    loss_error = abs(found_loss - loss) / abs(loss)
    print(f"sequences {len(input_ids)} of {input_ids.shape[1]} tokens, valid targets {int((labels != IGNORED).sum())}")
    print(f"loss: found {found_loss:.8f}, transformers {loss:.8f}, relative error {loss_error:.2e}")
    print(f"global gradient norm {norm:.6e}; relative L2 errors of the worst of {len(table)} gradients:")
    for error, name in table[:rows]:
        print(f"  {error:9.2e}  |g| = {expected[name].norm().item():9.3e}  {name} {list(expected[name].shape)}")
    return ok and all(error <= tolerance for error in [loss_error] + [row[0] for row in table])


def compare_logits(model, path, tolerance):
    tensors = read_tensors(path, ("logits", "input_ids"))
    logits = tensors["logits"]
    if logits.dim() != 3 or logits.shape[2] != model.config.vocab_size:
        raise InputError(f"logits {list(logits.shape)}: expected [N, T, {model.config.vocab_size}]")
    N, T, _ = logits.shape
    input_ids = integers("input_ids", tensors["input_ids"], 0, model.config.vocab_size)
    if input_ids.shape[-1] != T or input_ids.numel() < N * T:
        raise InputError(f"input_ids {list(input_ids.shape)}: expected at least {N} rows of {T}")
    with torch.no_grad():
        expected = model(input_ids=input_ids.reshape(-1, T)[:N], use_cache=False).logits
    error = relative_error(logits, expected)
    print(f"logits {list(logits.shape)}: relative L2 error {error:.2e}, "
          f"largest difference {(logits - expected).abs().max().item():.2e}")
    return error <= tolerance


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", help="Hugging Face folder")
    parser.add_argument("grads", metavar="GRADS", nargs="?", help="what --dump-grads wrote")
    parser.add_argument("--logits", metavar="FILE", help="safetensors with logits and input_ids to compare")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64",
                        help="what transformers computes in (default float64)")
    parser.add_argument("--tolerance", type=float, default=1e-4,
                        help="largest relative error that passes (default 1e-4, for --dtype fp32 of train_llama; "
                             "bf16 needs a larger one)")
    parser.add_argument("--rows", type=int, default=10, help="lines of the table (default 10)")
    args = parser.parse_args()
    if not args.grads and not args.logits:
        parser.error("nothing to compare: give GRADS, or --logits FILE, or both")

    try:
        model = load_model(args.model, getattr(torch, args.dtype))
        ok = True
        if args.logits:
            ok = compare_logits(model, args.logits, args.tolerance) and ok
        if args.grads:
            ok = compare_gradients(model, args.grads, args.tolerance, args.rows) and ok
    except InputError as error:
        print(f"compare_with_transformers: {error}", file=sys.stderr)
        return 2
    print(f"{'PASS' if ok else 'FAIL'} (tolerance {args.tolerance:g})")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
