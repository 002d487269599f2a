#!/usr/bin/env python3
"""Sends requests to a model on a v2 inference server (weldpool or Triton) and reports latency and throughput.

    client.py --model cnn                                    one client, 100 requests, random data
    client.py --model cnn --concurrency 8 --duration 10      eight clients for ten seconds
    client.py --model cnn --input x=picture.npy --json       data from a file, JSON instead of binary tensors
    client.py --model text --shape tokens=1,128              sizes for dimensions that the model leaves open
"""

import argparse
import statistics
import sys
import threading
import time

import numpy as np
import tritonclient.http as triton
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import triton_to_np_dtype


def assignments(pairs):
    """Turns ["NAME=VALUE", ...] into {NAME: VALUE}."""
    for pair in pairs:
        if "=" not in pair:
            sys.exit(f"client: `{pair}` is not of the form NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def make_array(spec, source, shape):
    """Makes the array for one input of the model; dimensions left open are 1 unless `shape` says otherwise."""
    datatype = spec["datatype"]
    dtype = np.dtype(np.float32 if datatype == "BF16" else triton_to_np_dtype(datatype))
    if source not in ("random", "zeros"):
        return np.load(source).astype(dtype, copy=False)
    shape = [int(size) for size in shape.split(",")] if shape else [max(1, int(size)) for size in spec["shape"]]
    if datatype == "BYTES":
        return np.full(shape, b"" if source == "zeros" else b"weldpool", dtype=object)
    random = np.random.default_rng(0)
    if source == "zeros" or dtype == np.bool_:
        return np.zeros(shape, dtype=dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 100, shape).astype(dtype)


def make_request(client, arguments):
    """Returns the inputs and requested outputs of every request, made after the model's metadata."""
    metadata = client.get_model_metadata(arguments.model, arguments.version)
    sources, shapes = assignments(arguments.input), assignments(arguments.shape)
    unknown = (sources.keys() | shapes.keys()) - {spec["name"] for spec in metadata["inputs"]}
    if unknown:
        sys.exit(f"client: {arguments.model} has no input {', '.join(sorted(unknown))}")
    inputs = []
    for spec in metadata["inputs"]:
        name = spec["name"]
        array = make_array(spec, sources.get(name, "random"), shapes.get(name))
        tensor = triton.InferInput(name, array.shape, spec["datatype"])
        tensor.set_data_from_numpy(array, binary_data=arguments.binary)
        inputs.append(tensor)
    outputs = [triton.InferRequestedOutput(spec["name"], arguments.binary) for spec in metadata["outputs"]]
    return inputs, outputs


class Load:
    """Clients that send the same request again and again until the count or the time is used up."""

    def __init__(self, arguments, inputs, outputs):
        self._arguments, self._inputs, self._outputs = arguments, inputs, outputs
        self._lock, self._sent = threading.Lock(), 0
        self._deadline = None
        self.seconds, self.errors = [], {}

    def run(self):
        """Returns the wall time of everything."""
        started = time.perf_counter()
        if self._arguments.duration is not None:
            self._deadline = started + self._arguments.duration
        threads = [threading.Thread(target=self._client) for _ in range(self._arguments.concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _client(self):
        # The HTTP client belongs to the thread that made it.
        with triton.InferenceServerClient(self._arguments.url) as client:
            while self._next():
                started = time.perf_counter()
                try:
                    client.infer(
                        self._arguments.model, self._inputs, self._arguments.version, outputs=self._outputs
                    )
                except Exception as error:  # counted by message: a report on errors must not stop at the first
                    with self._lock:
                        self.errors[str(error)] = self.errors.get(str(error), 0) + 1
                else:
                    self.seconds.append(time.perf_counter() - started)

    def _next(self):
        if self._deadline is not None:
            return time.perf_counter() < self._deadline
        with self._lock:
            self._sent += 1
            return self._sent <= self._arguments.requests


def report(load, wall):
    failed = sum(load.errors.values())
    print(f"requests    {len(load.seconds)} answered, {failed} failed, in {wall:.2f} s")
    for message, count in load.errors.items():
        print(f"  {count} x {message}")
    if len(load.seconds) > 1:
        percentiles = statistics.quantiles(load.seconds, n=100, method="inclusive")
        print(f"throughput  {len(load.seconds) / wall:.1f} requests/s")
        print("latency     " + "  ".join(f"p{p} {percentiles[p - 1] * 1e3:.2f} ms" for p in (50, 90, 99)))
    return 1 if failed or not load.seconds else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8000", help="HOST:PORT (default 127.0.0.1:8000)")
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", default="", help="of the model (default: the server's choice)")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy|random|zeros")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1,3,224,224")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="clients at a time")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--requests", type=int, default=100, metavar="N", help="in all (default 100)")
    amount.add_argument("--duration", type=float, metavar="SECONDS", help="instead of a number of requests")
    encoding = parser.add_mutually_exclusive_group()
    encoding.add_argument("--binary", action="store_true", default=True, help="binary tensors (default)")
    encoding.add_argument("--json", action="store_false", dest="binary", help="tensors as JSON numbers")
    arguments = parser.parse_args()
    try:
        with triton.InferenceServerClient(arguments.url) as client:
            inputs, outputs = make_request(client, arguments)
        load = Load(arguments, inputs, outputs)
        wall = load.run()
    except (triton.InferenceServerException, HTTPConnectionClosed, OSError) as error:
        sys.exit(f"client: {error}")
    sys.exit(report(load, wall))


if __name__ == "__main__":
    main()
