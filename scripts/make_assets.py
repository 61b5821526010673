"""Make the demo's assets: the handwritten digits and the small residual network trained on them.

    python scripts/make_assets.py            # writes into assets/
    python scripts/make_assets.py --out DIR  # writes elsewhere, to compare

Takes less than a minute on one CPU core. Everything is seeded and runs on one thread. The digits come
out the same everywhere (their gzip bytes wherever zlib is the usual one), the network on the same
versions and kind of CPU. At the end it prints what `assets/README.md` states: the network's accuracy,
and for every block end its cost and the accuracy of an exit there.

Needs Python 3.11 or later and

    pip install numpy==2.4.6 scikit-learn==1.9.1 torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0
"""
import argparse
import gzip
import io
import pathlib
import struct

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

SEED = 20210302
TRAIN = 900                  # images [0, TRAIN) train the network, the others never do
MEAN, STD = 0.305, 0.376     # of the training images' pixels in 0..1, rounded; fixed so that runs agree
# Narrow at the start, or the first exit would already answer everything: with 12 channels there it is
# right on 98 to 99 % of the digits. The blocks' costs are near one another, as in ResNet-20.
WIDTHS, BLOCKS = (4, 12, 24), (2, 3, 3)
EPOCHS, BATCH, RATE = 60, 50, 0.1


# ---------------------------------------------------------------------------------------- digits

def digits():
    """-> (N,8,8) u8 images and (N,) u8 labels; every class has its share on both sides of TRAIN."""
    raw = load_digits()
    images = np.floor(raw.images * 255 / 16 + 0.5).astype(np.uint8)
    labels = raw.target.astype(np.uint8)
    # The files' order must outlive NumPy's generators, so the shuffle is a linear congruential
    # generator of our own (Knuth's MMIX constants) and a stable sort.
    state, keys = SEED, np.empty(len(labels), np.uint64)
    for i in range(len(keys)):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        keys[i] = state >> 11
    order = np.argsort(keys, kind="stable")
    # Largest remainders share TRAIN among the classes.
    share = np.bincount(labels) * TRAIN / len(labels)
    take = np.floor(share).astype(int)
    for k in np.argsort(take - share, kind="stable")[: TRAIN - take.sum()]:
        take[k] += 1
    train, rest, left = [], [], take.copy()
    for i in order:
        k = labels[i]
        (train if left[k] > 0 else rest).append(i)
        left[k] -= 1
    order = np.array(train + rest)
    return images[order], labels[order]


def write_idx(path, array):
    """One IDX file of unsigned bytes, gzipped without a name or a time."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as f:
        f.write(head + array.tobytes())
    path.write_bytes(packed.getvalue())


def prepare(images):
    return ((images.astype(np.float32) / 255 - MEAN) / STD)[:, None]


# --------------------------------------------------------------------------------------- network

class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        inputs = WIDTHS[0]
        for s, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS), 1):
            stage = []
            for b in range(blocks):
                stage.append(Block(inputs, width, 2 if s > 1 and b == 0 else 1))
                inputs = width
            setattr(self, f"stage{s}", nn.Sequential(*stage))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.relu(self.bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.pool(x).flatten(1))


def augment(x, rng):
    """Shifts of up to one pixel and a little noise; drawn per image."""
    n = len(x)
    padded = F.pad(x, (1, 1, 1, 1), value=-MEAN / STD)
    dy, dx = torch.randint(0, 3, (2, n), generator=rng)
    rows, cols = dy[:, None] + torch.arange(8), dx[:, None] + torch.arange(8)
    shifted = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], cols[:, None, :]][:, None]
    return shifted + 0.15 * torch.randn(shifted.shape, generator=rng)


def train(images, labels):
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rng = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(prepare(images)), torch.from_numpy(labels.astype(np.int64))
    net = Network()
    steps = EPOCHS * (len(x) // BATCH)
    opt = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, RATE, total_steps=steps, pct_start=0.2)
    for epoch in range(EPOCHS):
        net.train()
        total = 0.0
        for pick in torch.randperm(len(x), generator=rng)[: steps // EPOCHS * BATCH].split(BATCH):
            loss = F.cross_entropy(net(augment(x[pick], rng)), y[pick], label_smoothing=0.05)
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            total += loss.item() * len(pick)
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3d}  loss {total / len(x):.4f}", flush=True)
    return net.eval()


def write_onnx(path, net):
    """The exporter folds the batch norms; names are those of the modules (`/stage1/stage1.0/relu_1/…`)."""
    packed = io.BytesIO()
    torch.onnx.export(net, (torch.zeros(1, 1, 8, 8),), packed, input_names=["input"], output_names=["logits"],
                      dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, dynamo=False)
    model = onnx.load_from_string(packed.getvalue())
    onnx.checker.check_model(model, full_check=True)
    if any(n.op_type == "BatchNormalization" for n in model.graph.node):
        raise SystemExit("a batch norm was not folded")
    path.write_bytes(packed.getvalue())
    return model


# ----------------------------------------------------------------------------------------- check

def block_ends(model):
    """Value names of the residual blocks' outputs: every Relu that follows an Add."""
    adds = {n.output[0] for n in model.graph.node if n.op_type == "Add"}
    return [n.output[0] for n in model.graph.node if n.op_type == "Relu" and n.input[0] in adds]


def costs(model, taps):
    """Multiply-accumulates of the network up to each tap, and of the whole; node order is execution order."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shape = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
             for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    weight = {w.name: list(w.dims) for w in inferred.initializer}
    spent, at = 0, {}
    for n in inferred.node:
        if n.op_type == "Conv":
            spent += int(np.prod(shape[n.output[0]]) * np.prod(weight[n.input[1]][1:]))
        elif n.op_type == "Gemm":
            spent += int(np.prod(weight[n.input[1]]))
        at[n.output[0]] = spent
    return [at[t] for t in taps], spent, [shape[t] for t in taps]


def activations(model, taps, images):
    """Run the exported file, not the trained object: it is what ships."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(t) for t in taps)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["logits", *taps], {"input": prepare(images)})


def pooled(a, p):
    n, c, h, _ = a.shape
    p = min(p, h)
    return a.reshape(n, c, p, h // p, p, h // p).mean((3, 5)).reshape(n, -1).astype(np.float64)


def margin(score):
    """Log-odds of the first class: its score less the log-sum-exp of the others."""
    ranked = np.sort(score, 1)
    second = ranked[:, -2:-1]
    return ranked[:, -1] - second[:, 0] - np.log(np.exp(ranked[:, :-1] - second).sum(1))


def whitened(z, y, z_new, shrinkage=0.01):
    """-> prediction and margin of the whitened class means of (z, y), for the rows of z_new."""
    means = np.stack([z[y == k].mean(0) for k in range(10)])
    rest = z - means[y]
    cov = rest.T @ rest / len(z)
    cov += shrinkage * np.trace(cov) / len(cov) * np.eye(len(cov))
    weight = np.linalg.solve(cov, means.T)
    score = z_new @ weight - 0.5 * (means.T * weight).sum(0)
    return score.argmax(1), margin(score)


def nearest(z, y, z_new):
    """The paper's rule: -> prediction and margin of the plain class means."""
    means = np.stack([z[y == k].mean(0) for k in range(10)])
    far = np.sqrt(((z_new[:, None] - means) ** 2).sum(2))
    spread = np.sqrt(((z[:, None] - means) ** 2).sum(2)).mean(0)
    return far.argmin(1), margin(-far / spread)


def report(model, images, labels):
    """Statistics from the training images; thresholds from one half of the others, read on the other, both ways."""
    taps = block_ends(model)
    macs, total, shapes = costs(model, taps)
    logits, *maps = activations(model, taps, images)
    y, answer = labels.astype(int), logits.argmax(1)
    new, halves = slice(TRAIN, None), (slice(TRAIN, None, 2), slice(TRAIN + 1, None, 2))
    print(f"network: train {(answer == y)[:TRAIN].mean():.4f}  held out {(answer == y)[new].mean():.4f}  MACs {total}")
    for tap, m, s in zip(taps, macs, shapes):
        print(f"  {tap}  {s[1:]}  {m} MACs  {m / total:.3f}")
    for name, rule in (("class means", nearest), ("whitened class means", whitened)):
        for p in (1, 2, 4):
            z = [pooled(a, p) for a in maps]
            got = [rule(a[:TRAIN], y[:TRAIN], a) for a in z]
            own = np.array([10 * a.shape[1] for a in z])
            print(f"{name}, pool {p}, cost:accuracy on held-out images")
            print("   everyone leaves at exit e  ", "  ".join(
                f"{c:.2f}:{(g[0] == y)[new].mean():.3f}" for c, g in zip((macs + own) / total, got)))
            price = np.array([*(macs + own.cumsum()), total + own.sum()]) / total
            choices = np.stack([*(g[0] for g in got), answer], 1)
            line = []
            for q in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):   # what does not leave, at every exit
                cost, right = [], []
                for fit, read in (halves, halves[::-1]):
                    done = np.full(len(y), len(taps))
                    for e in reversed(range(len(taps))):
                        done[got[e][1] > np.quantile(got[e][1][fit], q)] = e
                    cost.extend(price[done][read])
                    right.extend((choices[np.arange(len(y)), done] == y)[read])
                line.append(f"{np.mean(cost):.2f}:{np.mean(right):.3f}")
            print("   surest leave at each exit ", "  ".join(line))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "assets")
    out = parser.parse_args().out
    (out / "digits").mkdir(parents=True, exist_ok=True)
    images, labels = digits()
    write_idx(out / "digits" / "digits-images-idx3-ubyte.gz", images)
    write_idx(out / "digits" / "digits-labels-idx1-ubyte.gz", labels)
    pixels = images[:TRAIN] / 255
    print(f"training images: mean {pixels.mean():.4f}  std {pixels.std():.4f}  per class {np.bincount(labels[:TRAIN])}")
    net = train(images[:TRAIN], labels[:TRAIN])
    model = write_onnx(out / "digits_resnet.onnx", net)
    report(model, images, labels)


if __name__ == "__main__":
    main()
