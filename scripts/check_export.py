"""Check a model written by `exeunt export` against exeunt's own inference, in ONNX Runtime.

    exeunt export RUN --onnx early.onnx
    exeunt-node --home NODE serve --http 127.0.0.1:8000      # the same policy must be in force there
    python scripts/check_export.py early.onnx --network network.onnx --idx images.gz --from 5000
    python scripts/check_export.py early.onnx --network network.onnx --cifar10 test_batch.bin.gz

Every sample goes to both, as the same numbers: to the node over HTTP and to the model in ONNX Runtime. Class and exit
must agree. Then thresholds are overridden at run time, and latencies are measured: the model where nothing leaves,
where everything leaves at its first exit, and with the policy as it is, against the whole network; runs are
interleaved, one thread each.

Ends with 1 if anything disagrees. Needs

    pip install numpy onnx onnxruntime tritonclient[http]
"""
import argparse
import gzip
import json
import sys
import time

import numpy as np
import onnx
import onnxruntime
import tritonclient.http as triton

NOWHERE, EVERYBODY = np.array([np.inf]), np.array([-np.inf])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="written by `exeunt export`")
    parser.add_argument("--network", required=True, help="the ONNX file that the run was started with")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--idx", help="IDX images, gzip")
    data.add_argument("--cifar10", help="CIFAR-10 records, gzip")
    parser.add_argument("--from", dest="begin", type=int, default=0, help="first sample, by position")
    parser.add_argument("--to", dest="end", type=int, help="behind the last sample")
    parser.add_argument("--node", default="127.0.0.1:8000", help="where `exeunt-node serve` listens")
    parser.add_argument("--runs", type=int, default=2000, help="timed runs of each kind")
    return parser.parse_args()


def pixels(args):
    """-> (N, C, H, W) u8"""
    with gzip.open(args.idx or args.cifar10) as file:
        raw = np.frombuffer(file.read(), np.uint8)
    if args.cifar10:
        images = raw.reshape(-1, 3073)[:, 1:].reshape(-1, 3, 32, 32)
    else:
        count, height, width = (int.from_bytes(raw[i : i + 4].tobytes(), "big") for i in (4, 8, 12))
        images = raw[16:].reshape(count, 1, height, width)
    return images[args.begin : args.end]


def preprocess(images, spec):
    """As the run file says, in single precision like exeunt."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    channels = [
        ((levels - np.float32(mean)) / np.float32(std))[images[:, c]]
        for c, (mean, std) in enumerate(zip(spec["mean"], spec["std"]))
    ]
    return np.ascontiguousarray(np.stack(channels, 1))


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def by_node(address, x):
    """-> class, exit, margin of every sample, and the version of the policy"""
    client = triton.InferenceServerClient(address)
    # The model has one name, which its statistics tell.
    name = client.get_inference_statistics()["model_stats"][0]["name"]
    meta = client.get_model_metadata(name)
    parts = []
    for begin in range(0, len(x), 64):
        batch = x[begin : begin + 64]
        tensor = triton.InferInput(meta["inputs"][0]["name"], batch.shape, "FP32")
        tensor.set_data_from_numpy(batch)
        parts.append(client.infer(name, [tensor]))
    join = lambda output: np.concatenate([part.as_numpy(output) for part in parts])
    return join("class"), join("exit"), join("margin"), int(meta["versions"][0])


def timed(session, feed):
    begin = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - begin


def measure(args, early, whole, source, x, nowhere, first):
    times = {"whole network": [], "leaves nowhere": [], "leaves at first exit": [], "as the policy says": []}
    for run in range(args.runs + 50):
        sample = {source: x[run % len(x)][None]}
        kinds = [(whole, sample), (early, sample | nowhere), (early, sample | first), (early, sample)]
        for kept, (who, feed) in zip(times.values(), kinds):
            kept.append(timed(who, feed))
    # On a machine that does other work, what a tenth of the runs stay under says more than the median.
    base = np.percentile(times["whole network"][50:], [10, 50])
    for kind, taken in times.items():
        low, middle = np.percentile(taken[50:], [10, 50])
        print(f"{kind:>20}: median {middle * 1e3:7.3f} ms ({middle / base[1]:5.3f} x the network), "
              f"a tenth under {low * 1e3:7.3f} ms ({low / base[0]:5.3f} x)")


def main():
    args = arguments()
    model = onnx.load(args.model)
    onnx.checker.check_model(model, full_check=True)
    meta = {entry.key: entry.value for entry in model.metadata_props}
    exits, costs = json.loads(meta["exits"]), json.loads(meta["costs"])
    print(f"{args.model}: policy {meta['policy_version']} of {meta['run']}, exits {exits}, passes onnx.checker")

    early, whole = session(args.model), session(args.network)
    overridable = [value.name for value in early.get_overridable_initializers()]
    assert overridable == [f"threshold_{exit}" for exit in exits], overridable
    source, bare = early.get_inputs()[0].name, whole.get_inputs()[0].name
    assert source == bare
    x = preprocess(pixels(args), json.loads(meta["input"]))

    said = [early.run(None, {source: x[i : i + 1]}) for i in range(len(x))]
    classes, taken, margins = (np.concatenate([s[o] for s in said]) for o in (1, 2, 3))
    node_classes, node_exits, node_margins, version = by_node(args.node, x)
    assert version == int(meta["policy_version"]), f"the node follows policy {version}"
    same = (classes == node_classes) & (taken == node_exits)
    apart = np.abs(margins - node_margins)[same].max(initial=0)
    print(f"{same.sum()} of {len(x)} samples: same class and exit as the node; margins differ by at most {apart:.2g}")
    for i in np.flatnonzero(~same)[:10]:
        print(f"  sample {args.begin + i}: class {classes[i]} exit {taken[i]} margin {margins[i]:.9g}, the node says "
              f"class {node_classes[i]} exit {node_exits[i]} margin {node_margins[i]:.9g}")
    counts = {exit: int((taken == exit).sum()) for exit in [*exits, 0]}
    mean_cost = sum(counts[exit] * cost for exit, cost in zip([*exits, 0], costs)) / len(x)
    print(f"left at {counts}, mean cost {mean_cost:.3f}")

    bad = int((~same).sum())
    nowhere = {f"threshold_{exit}": NOWHERE for exit in exits}
    first = {f"threshold_{exits[0]}": EVERYBODY} if exits else {}
    logits = [whole.run(None, {bare: x[i : i + 1]})[0] for i in range(min(len(x), 200))]
    for i, expected in enumerate(logits):
        sample = {source: x[i : i + 1]}
        scores, label, exit, _ = early.run(None, sample | nowhere)
        bad += int(exit[0] != 0 or label[0] != expected.argmax() or not np.allclose(scores, expected, 1e-3, 1e-4))
        bad += int(bool(exits) and early.run(None, sample | first)[2][0] != exits[0])
    print(f"thresholds overridden on {len(logits)} samples: {'as they should' if bad == (~same).sum() else 'WRONG'}")

    measure(args, early, whole, source, x, nowhere, first)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
