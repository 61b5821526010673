"""Check `exeunt-node serve` with the real Triton client.

    exeunt-node --home NODE serve --http 127.0.0.1:8000
    python scripts/check_triton.py --node 127.0.0.1:8000 --pid $(pidof exeunt-node)

Health, metadata, statistics; JSON and binary tensors; a batch against its samples; wrong requests; then 10,000
requests from 64 connections while one client has stopped half-way, with latencies, and the server's memory before and
after.

Ends with 1 if anything is not as it should be. Needs

    pip install numpy tritonclient[http]
"""
import argparse
import pathlib
import re
import socket
import sys
import threading
import time

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

CONNECTIONS, REQUESTS = 64, 10_000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--node", default="127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="the server's process, to read its memory")
    return parser.parse_args()


def memory(pid):
    """-> the server's memory now and at its peak, in MiB"""
    if pid is None:
        return "not asked for"
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) / 1024 for key in ("VmRSS", "VmHWM"))
    return f"{now:.1f} MiB, at its peak {peak:.1f} MiB"


def tensor(meta, x, binary=True, name=None, datatype="FP32", shape=None):
    made = triton.InferInput(name or meta["name"], list(shape or x.shape), datatype)
    if binary:
        made.set_data_from_numpy(x)
    else:
        made.set_data_from_numpy(x, binary_data=False)
    return made


def refused(ask, expected):
    """The client raises, and the server says why."""
    try:
        ask()
    except InferenceServerException as error:
        assert expected in str(error), f"{error} lacks {expected!r}"
        return
    raise AssertionError(f"not refused: {expected}")


def load(address, model, meta, x, times):
    """One connection's share of the requests."""
    client = triton.InferenceServerClient(address)
    for _ in range(REQUESTS // CONNECTIONS + 1):
        begin = time.perf_counter()
        answer = client.infer(model, [tensor(meta, x)])
        times.append(time.perf_counter() - begin)
        assert answer.as_numpy("class").shape == (1,)
    client.close()


def main():
    args = arguments()
    client = triton.InferenceServerClient(args.node)
    assert client.is_server_live() and client.is_server_ready()
    print("server", client.get_server_metadata())
    model = client.get_inference_statistics()["model_stats"][0]["name"]
    about = client.get_model_metadata(model)
    print("model", about)
    meta, version = about["inputs"][0], about["versions"][0]
    assert client.is_model_ready(model) and client.is_model_ready(model, version)
    assert not client.is_model_ready("no such model")

    shape = [8, *meta["shape"][1:]]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    batch = client.infer(model, [tensor(meta, x)], request_id="a batch")
    assert batch.get_response()["id"] == "a batch"
    for i in range(len(x)):
        for binary in (True, False):
            wanted = [triton.InferRequestedOutput(o["name"], binary_data=binary) for o in about["outputs"]]
            one = client.infer(model, [tensor(meta, x[i : i + 1], binary)], outputs=wanted, model_version=version)
            said = one.get_response()["parameters"]
            assert said["policy_version"] == int(version)
            assert said["exit"] == one.as_numpy("exit")[0] == batch.as_numpy("exit")[i]
            assert said["margin"] == one.as_numpy("margin")[0] == batch.as_numpy("margin")[i]
            assert one.as_numpy("class")[0] == batch.as_numpy("class")[i]
            assert one.as_numpy("label")[0] in (batch.as_numpy("label")[i], batch.as_numpy("label")[i].decode())
    print("one sample says", said)

    one = x[:1]
    refused(lambda: client.infer(model, [tensor(meta, one, name="image")]), 'expected "input"')
    refused(lambda: client.infer(model, [tensor(meta, one.astype(np.int64), datatype="INT64")]), 'expected "FP32"')
    refused(lambda: client.infer(model, [tensor(meta, one[:, :, 1:])]), "found shape")
    refused(lambda: client.infer("other", [tensor(meta, one)]), "found model")
    refused(lambda: client.infer(model, [tensor(meta, one)], model_version="99999"), "found version")
    refused(lambda: client.infer(model, [tensor(meta, one)], outputs=[triton.InferRequestedOutput("x")]), "found output")
    print("wrong requests are refused with a reason")

    print("memory:", memory(args.pid))
    host, port = args.node.rsplit(":", 1)
    half = socket.create_connection((host, int(port)))
    half.sendall(f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{{".encode())
    before = client.get_inference_statistics(model)["model_stats"][0]
    times = []
    threads = [threading.Thread(target=load, args=(args.node, model, meta, x[i % 8][None], times))
               for i in range(CONNECTIONS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    after = client.get_inference_statistics(model)["model_stats"][0]
    success, fail = (after["inference_stats"][k]["count"] - before["inference_stats"][k]["count"]
                     for k in ("success", "fail"))
    expected = (REQUESTS // CONNECTIONS + 1) * CONNECTIONS
    assert len(times) == success == expected and fail == 0, (len(times), success, fail)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    print(f"{success} requests from {CONNECTIONS} connections in {took:.1f} s, none failed: {success / took:.0f} a "
          f"second, latency {p50:.1f} ms in the middle, {p99:.1f} ms at 99 %")
    half.close()
    print("memory:", memory(args.pid))
    return 0


if __name__ == "__main__":
    sys.exit(main())
