"""Models come, change and go in a real Triton, under traffic too.

Needs what `cargo xtask test` sets up. Arguments name the tests to run, as with `python -m unittest`.
"""

import json
import shutil
import threading
import time
import unittest

import numpy as np
from tritonclient.utils import InferenceServerException

import models
from cases import PROTOCOLS, Case, connect_one, eventually, infer, pool, random_array, same
from triton import require

# What Triton says of a model, or of a version, that is not there at the moment.
NOT_THERE = ("not ready", "unavailable", "not available", "no available versions", "not found", "is not at ready state")


def setUpModule():
    require()


class Explicit(Case):
    """Models are loaded one by one."""

    strict = False
    options = ("--model-control-mode=explicit",)

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))

    def setUp(self):
        self.http.load_model("witness")

    def answers(self, model, amount, version=""):
        x = random_array("FP32", (2, 3))
        for protocol in PROTOCOLS:
            same(self, self.infer(protocol, model, {"x": x}, model_version=version), {"y": x + np.float32(amount)})

    def gone(self, model, version=""):
        for protocol in PROTOCOLS:
            with self.assertRaises(InferenceServerException) as caught:
                self.infer(protocol, model, {"x": random_array("FP32", (2, 3))}, model_version=version)
            self.assertTrue(any(words in str(caught.exception) for words in NOT_THERE), caught.exception)


class Lifecycle(Explicit):
    # Memory of the pool that is idle goes back soon.
    environment = {"MPS_MAX_BUFFER_AGE": "1"}

    def test_load_and_unload(self):
        models.write(self.repository, "plain", models.add(1))
        self.gone("plain")
        for _ in range(3):
            self.http.load_model("plain")
            self.assertTrue(self.grpc.is_model_ready("plain"))
            self.answers("plain", 1)
            self.http.unload_model("plain")
            self.assertTrue(eventually(lambda: not self.http.is_model_ready("plain")))
            self.gone("plain")
        self.lives()

    def test_memory_usage(self):
        size = 4 << 20
        models.write(self.repository, "small", models.add(1))
        models.write(self.repository, "matrix", models.weights(size))
        held = {}
        for model in ("small", "matrix"):
            self.http.load_model(model)
            of_http, = self.statistics(model)["memory_usage"]
            of_grpc, = self.grpc.get_inference_statistics(model).model_stats[0].memory_usage
            self.assertEqual(of_http["type"], "CPU")
            held[model] = int(of_http["byte_size"])
            self.assertEqual(of_grpc.byte_size, held[model])
        # The engine holds the matrix in the form that its kernel reads; of the other model there is next to nothing.
        self.assertLess(held["small"], size / 16)
        self.assertGreaterEqual(held["matrix"], size)
        self.assertLess(held["matrix"], 2 * size)
        for model in held:
            self.http.unload_model(model)

    def test_versions(self):
        for version, amount in ((1, 10), (2, 20), (5, 50)):
            policy = "version_policy: { specific: { versions: [ 1, 5 ] } }\n"
            models.write(self.repository, "versions", models.add(amount), policy, version)
        self.http.load_model("versions")
        self.answers("versions", 10, "1")
        self.answers("versions", 50, "5")
        # Without a version it is the last.
        self.answers("versions", 50)
        self.gone("versions", "2")
        models.write(self.repository, "versions", models.add(60), "version_policy: { all { } }\n", 6)
        self.http.load_model("versions")
        for version, amount in (("1", 10), ("2", 20), ("5", 50), ("6", 60), ("", 60)):
            self.answers("versions", amount, version)
        shutil.rmtree(self.repository / "versions" / "6")
        self.http.load_model("versions")
        self.assertTrue(eventually(lambda: not self.http.is_model_ready("versions", "6")))
        self.answers("versions", 50)

    def test_another_configuration_on_load(self):
        models.write(self.repository, "override", models.add(3))
        self.http.load_model("override")
        self.assertEqual(self.http.get_model_config("override")["max_batch_size"], 4)
        config = {"backend": "metal_mps", "max_batch_size": 9, "instance_group": [{"count": 2, "kind": "KIND_CPU"}]}
        self.http.load_model("override", config=json.dumps(config))
        found = self.http.get_model_config("override")
        self.assertEqual((found["max_batch_size"], found["instance_group"][0]["count"]), (9, 2))
        x = random_array("FP32", (9, 3))
        same(self, self.infer("http", "override", {"x": x}), {"y": x + np.float32(3)})
        # Files with the configuration replace the folder.
        self.http.load_model("override", config=json.dumps({"backend": "metal_mps"}),
                             files={"file:1/model.onnx": models.add(4).SerializeToString()})
        self.answers("override", 4)

    def test_a_model_that_fails_to_load_can_be_mended(self):
        models.write(self.repository, "mended", None)
        (self.repository / "mended/1/model.onnx").write_bytes(b"not a model")
        with self.refused("mended"):
            self.http.load_model("mended")
        self.gone("mended")
        models.write(self.repository, "mended", models.add(5))
        self.http.load_model("mended")
        self.answers("mended", 5)

    def test_reload_under_traffic(self):
        amounts = [1, 2, 3, 4, 5, 6]
        models.write(self.repository, "busy", models.add(amounts[0]))
        self.http.load_model("busy")
        over = threading.Event()
        seen, wrong, counts = set(), [], {"right": 0, "not there": 0}
        lock = threading.Lock()

        def work(protocol, seed):
            client = connect_one(self.server, protocol)
            x = random_array("FP32", (1 + seed % 3, 3), seed=seed)
            while not over.is_set():
                try:
                    y = infer(client, protocol, "busy", {"x": x})["y"]
                except InferenceServerException as error:
                    with lock:
                        if any(words in str(error) for words in NOT_THERE):
                            counts["not there"] += 1
                        else:
                            wrong.append(str(error))
                    continue
                amount = next((amount for amount in amounts if np.array_equal(y, x + np.float32(amount))), None)
                with lock:
                    counts["right"] += 1
                    seen.add(amount)
                    if amount is None:
                        wrong.append((x, y))
            client.close()

        threads = [threading.Thread(target=work, args=(protocol, seed))
                   for seed, protocol in enumerate(["http", "grpc"] * 2)]
        for thread in threads:
            thread.start()
        try:
            for amount in amounts[1:]:
                time.sleep(0.4)
                models.write(self.repository, "busy", models.add(amount))
                if amount % 2:
                    self.http.unload_model("busy")
                self.http.load_model("busy")
                # The new one answers from now on.
                self.answers("busy", amount)
            time.sleep(0.4)
        finally:
            over.set()
            for thread in threads:
                thread.join(30)
        self.assertFalse(any(thread.is_alive() for thread in threads))
        self.assertEqual(wrong[:3], [])
        self.assertEqual(seen, set(amounts))
        self.assertGreater(counts["right"], 100)
        self.answers("busy", amounts[-1])
        self.lives()

    def test_unload_gives_memory_back(self):
        # Weights that are worth counting.
        weights = models.numpy_helper.from_array(np.ones((1024, 1024), np.float32), "weights")
        proto = models.model("with_weights", [models.helper.make_node("MatMul", ["x", "weights"], ["y"])],
                             [models.value("x", "FP32", ["n", 1024])], [models.value("y", "FP32", ["n", 1024])],
                             [weights])
        models.write(self.repository, "with_weights", proto,
                     models.parameter("session.use_device_allocator_for_initializers", "1"))
        self.lives()
        self.assertTrue(eventually(self.settled))
        idle = pool(self.server)["weldpool_pool_live_bytes"]
        for _ in range(2):
            self.http.load_model("with_weights")
            x = random_array("FP32", (3, 1024))
            for protocol in PROTOCOLS:
                same(self, self.infer(protocol, "with_weights", {"x": x}),
                     {"y": x.sum(axis=1, keepdims=True).repeat(1024, axis=1)}, tolerance=1e-2)
            self.becomes(lambda figures: figures["weldpool_pool_live_bytes"] >= idle + (4 << 20))
            self.http.unload_model("with_weights")
            self.becomes(lambda figures: figures["weldpool_pool_live_bytes"] == idle)
        self.becomes(lambda figures: figures["weldpool_pool_reserved_bytes"] < idle + (4 << 20))

    def becomes(self, condition):
        """Waits for figures of the pool."""
        self.assertTrue(eventually(lambda: condition(pool(self.server))), pool(self.server))

    def settled(self):
        """Whether the figures of the pool stay as they are."""
        first = pool(self.server)["weldpool_pool_live_bytes"]
        time.sleep(1.2)
        return pool(self.server)["weldpool_pool_live_bytes"] == first


class FailedReload(Explicit):
    """What serves stays while what would replace it is broken.

    After a failed reload, with any backend or none, this Triton waits in vain for a model when it is told to stop.
    """

    options = (*Explicit.options, "--exit-timeout-secs", "1")
    ends_with = 1

    def test_a_broken_file(self):
        models.write(self.repository, "mended", models.add(5))
        self.http.load_model("mended")
        self.answers("mended", 5)
        (self.repository / "mended/1/model.onnx").write_bytes(b"not a model")
        with self.refused("mended"):
            self.http.load_model("mended")
        self.answers("mended", 5)

    def test_a_wrong_configuration(self):
        models.write(self.repository, "override", models.add(3), "max_batch_size: 9\n")
        self.http.load_model("override")
        config = {"backend": "metal_mps", "max_batch_size": 8}
        with self.refused("unified_memory"):
            wrong = {**config, "parameters": {"optimization.unified_memory.enable": {"string_value": "maybe"}}}
            self.http.load_model("override", config=json.dumps(wrong))
        self.assertEqual(self.http.get_model_config("override")["max_batch_size"], 9)
        self.answers("override", 3)
        self.answers("override", 3)


if __name__ == "__main__":
    unittest.main()
