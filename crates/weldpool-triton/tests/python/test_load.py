"""Load on a real Triton: right results, no growth of memory, and its own load generator.

Needs what `cargo xtask test` sets up. Arguments name the tests to run, as with `python -m unittest`.
"""

import csv
import os
import pathlib
import statistics
import subprocess
import tempfile
import threading
import time
import unittest

import numpy as np

import models
from cases import Case, connect_one, eventually, infer, pool, random_array, same
from triton import require

PERF_ANALYZER = os.environ.get("WELDPOOL_PERF_ANALYZER")
PERF_ANALYZER_LIBRARIES = os.environ.get("WELDPOOL_PERF_ANALYZER_LIBRARIES")
PERF_ANALYZER_SECONDS = 60


def setUpModule():
    require()


class Load(Case):
    clients_count = 8
    warm_up_seconds = 3.0
    seconds = 10.0
    # The heap of Triton settles by some MiB; what is not freed comes to more, for the requests of the
    # measured time bring hundreds of MiB of inputs.
    growth_bytes_max = 16 << 20

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))
        models.write(repository, "numbers", models.doubled("FP32", ["n", "k"]), models.batching(8, 1))
        models.write(repository, "strings", models.doubled("BYTES", ["n", "k"]), models.batching(8, 1))
        models.write(repository, "add_sub", models.add_sub(["n", 4]),
                     "instance_group [ { count: 2 kind: KIND_CPU } ]\n")
        models.write(repository, "non_zero", models.non_zero())
        models.write(repository, "slow", models.slow(64))

    def requests(self):
        """(model, inputs, expected), of many sizes."""
        made = []
        for seed, size in enumerate((1, 3, 100, 5000, 40000)):
            x = random_array("FP32", (1 + seed % 3, size), seed)
            made.append(("numbers", {"x": x}, {"y": np.concatenate([x, x], axis=1)}))
        for seed, size in enumerate((1, 7, 60)):
            x = random_array("BYTES", (1 + seed, size), seed)
            made.append(("strings", {"x": x}, {"y": np.concatenate([x, x], axis=1)}))
        for items in range(1, 5):
            a, b = random_array("FP32", (items, 4), items), random_array("FP32", (items, 4), items + 9)
            made.append(("add_sub", {"a": a, "b": b}, {"sum": a + b, "difference": a - b}))
        for size in (2, 50, 900):
            x = np.random.default_rng(size).integers(0, 2, size).astype(np.float32)
            made.append(("non_zero", {"x": x}, {"y": np.array(x.nonzero())}))
        made.append(("slow", {"rounds": np.array([5])}, {"done": np.array([5])}))
        return made

    def test_many_clients(self):
        requests = self.requests()
        over = threading.Event()
        wrong, counts, lock = [], [0] * self.clients_count, threading.Lock()

        def work(number):
            protocol = "http" if number % 2 else "grpc"
            client = connect_one(self.server, protocol)
            random = np.random.default_rng(number)
            try:
                while not over.is_set():
                    model, inputs, expected = requests[random.integers(len(requests))]
                    # Half of them want an output by name.
                    names = list(expected) if random.integers(2) else None
                    same(self, infer(client, protocol, model, inputs, names), expected)
                    counts[number] += 1
            except BaseException as error:  # Told by the test, not lost in the thread.
                with lock:
                    wrong.append(error)
            client.close()

        for model, inputs, expected in requests:
            same(self, self.infer("http", model, inputs), expected)
        idle = self.idle_bytes()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(self.clients_count)]
        for thread in threads:
            thread.start()
        samples = []
        try:
            time.sleep(self.warm_up_seconds)
            deadline = time.monotonic() + self.seconds
            while time.monotonic() < deadline and not wrong:
                samples.append(self.server.resident_bytes())
                time.sleep(0.2)
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
        self.assertFalse(any(thread.is_alive() for thread in threads))
        if wrong:
            raise wrong[0]
        self.assertGreater(min(counts), 20, counts)
        third = len(samples) // 3
        growth = statistics.median(samples[-third:]) - statistics.median(samples[:third])
        self.assertLess(growth, self.growth_bytes_max, samples)
        self.assertTrue(eventually(lambda: pool(self.server)["weldpool_pool_live_bytes"] <= idle), (idle, pool(self.server)))
        self.lives()
        for name in ("numbers", "strings"):
            found = self.statistics(name)
            self.assertLess(found["execution_count"], found["inference_count"])
            self.assertEqual(found["inference_stats"]["fail"]["count"], 0)

    def idle_bytes(self):
        """The pool's live bytes when nothing runs; the figures are renewed each second."""
        time.sleep(1.2)
        return pool(self.server)["weldpool_pool_live_bytes"]

    def test_perf_analyzer(self):
        if not PERF_ANALYZER:
            raise RuntimeError("WELDPOOL_PERF_ANALYZER is not set: run these tests with `cargo xtask test`")
        for protocol, address in (("http", self.server.http), ("grpc", self.server.grpc)):
            with self.subTest(protocol), tempfile.TemporaryDirectory() as folder:
                report = pathlib.Path(folder) / "report.csv"
                # Other programs may be busy on the machine, so windows may differ by more than its default of 10 %.
                done = subprocess.run(
                    [PERF_ANALYZER, "-m", "add_sub", "-x", "1", "-i", protocol, "-u", address, "-b", "1",
                     "--shape", "a:4", "--shape", "b:4", "--concurrency-range", "2",
                     "--measurement-interval", "1000", "--stability-percentage", "25", "--max-trials", "24", "-f", report],
                    env={**os.environ, "LD_LIBRARY_PATH": PERF_ANALYZER_LIBRARIES}, capture_output=True, text=True,
                    timeout=PERF_ANALYZER_SECONDS, check=False)
                said = done.stdout + done.stderr
                self.assertEqual(done.returncode, 0, said)
                self.assertNotIn("Failed to obtain stable measurement", said)
                [row] = list(csv.DictReader(report.read_text().splitlines()))
                self.assertEqual(row["Concurrency"], "2")
                self.assertGreater(float(row["Inferences/Second"]), 10)
                # The server's own times, which it takes from the statistics.
                self.assertGreater(float(row["Server Compute Infer"]), 0)
                self.assertLess(float(row["Server Compute Infer"]), 1e6)
                self.assertLess(float(row["Server Queue"]), 1e6)


if __name__ == "__main__":
    unittest.main()
