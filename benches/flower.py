#!/usr/bin/env python3
"""Flower beside exeunt: N nodes each deliver one array per round and the server sums them.

    python3 -m venv /tmp/venv-flwr && /tmp/venv-flwr/bin/pip install "flwr[simulation]"
    cargo build --release -p exeunt
    /tmp/venv-flwr/bin/python benches/flower.py --exeunt target/release/exeunt --nodes 10 --table 1MB --rounds 10

Flower runs as its simulation does: nodes are actors of Ray on this machine, messages are handed over in memory, nothing
is on a disk and no network is used. The request of a round is empty and the answer is one array of float32, so nothing
but delivering and adding is measured; the first round, in which Ray starts its actors, is not counted. exeunt runs
`bench sessions`: every node has a QUIC connection with a certificate of its own, and an answer is acknowledged when it is
on the disk. The server's memory is the most that was resident in the process that adds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def size(text: str) -> int:
    for unit, factor in (("kB", 1000), ("MB", 1000_000), ("B", 1)):
        if text.endswith(unit):
            return int(text[: -len(unit)]) * factor
    raise argparse.ArgumentTypeError(f"found {text!r}, expected a size such as 10kB or 1MB")


def flower(nodes: int, table: int, rounds: int) -> dict:
    """Rounds of N answers in Flower's simulation."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import flwr
    import numpy as np
    from flwr.app import Array, ArrayRecord, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    client, server = ClientApp(), ServerApp()
    found = {}

    @client.train()
    def train(message, context):
        array = np.ones(table // 4, dtype=np.float32)
        content = RecordDict({"sums": ArrayRecord({"table": Array(array)})})
        return Message(content=content, reply_to=message)

    @server.main()
    def main(grid, context):
        ids = []
        while len(ids) < nodes:
            ids = list(grid.get_node_ids())
            time.sleep(0.1)
        times = []
        for _ in range(rounds + 1):
            begun = time.monotonic()
            requests = [Message(content=RecordDict(), message_type="train", dst_node_id=node) for node in ids]
            total = np.zeros(table // 4, dtype=np.float64)
            answers = list(grid.send_and_receive(requests))
            for answer in answers:
                total += answer.content["sums"]["table"].numpy()
            if len(answers) != nodes or not (total == nodes).all():
                raise RuntimeError(f"found {len(answers)} answers, expected {nodes} that add up")
            times.append(time.monotonic() - begun)
        found["seconds"] = sum(times[1:])

    begun = time.monotonic()
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=nodes,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if "seconds" not in found:
        raise RuntimeError("the simulation ended without its rounds")
    return {
        "what": f"Flower {flwr.__version__}, simulation",
        "rounds_per_s": rounds / found["seconds"],
        "tables_per_s": rounds * nodes / found["seconds"],
        "server_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "all_s": time.monotonic() - begun,
    }


def exeunt(program: str, nodes: int, table: str, rounds: int, folder: str | None) -> dict:
    """The same rounds over QUIC, durable."""
    begun = time.monotonic()
    command = [program, "bench", "sessions", "--json", "--nodes", str(nodes), "--table", table]
    command += ["--rounds", str(rounds)] + (["--folder", folder] if folder else [])
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {
        "what": "exeunt, QUIC, durable",
        "rounds_per_s": report["rounds_per_s"],
        "tables_per_s": report["rounds_per_s"] * nodes,
        "server_peak_mb": report["coordinator"]["after"]["peak"] / 1e6,
        "all_s": time.monotonic() - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exeunt", default="target/release/exeunt", help="the program")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--table", default="1MB", help="bytes of an array: 10kB, 1MB")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", help="where exeunt's store lies: on the disk that is to be measured")
    parser.add_argument("--only", choices=["flower", "exeunt"])
    arguments = parser.parse_args()
    rows = []
    if arguments.only != "exeunt":
        rows.append(flower(arguments.nodes, size(arguments.table), arguments.rounds))
    if arguments.only != "flower":
        rows.append(
            exeunt(arguments.exeunt, arguments.nodes, arguments.table, arguments.rounds, arguments.folder)
        )
    print(f"{arguments.nodes} nodes, {arguments.table}, {arguments.rounds} rounds", file=sys.stderr)
    for row in rows:
        print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}))
    if len(rows) == 2:
        print(f"{rows[1]['rounds_per_s'] / rows[0]['rounds_per_s']:.1f} times", file=sys.stderr)


if __name__ == "__main__":
    main()
