"""What goes wrong in a real Triton is answered, and the server lives.

Needs what `cargo xtask test` sets up, and a backend with the feature `faults`. Arguments name the tests to run, as
with `python -m unittest`.
"""

import json
import queue
import re
import threading
import time
import unittest
import urllib.error
import urllib.request

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import models
from cases import PROTOCOLS, Case, eventually, in_threads, infer, pool, random_array, same, tensors
from triton import require


def setUpModule():
    require()


class Requests(Case):
    """Requests that no client should send."""

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))
        models.write(repository, "add_sub", models.add_sub(["n", 4]))
        models.write(repository, "fixed", models.add_sub([2, 4]))
        models.write(repository, "strings", models.doubled("BYTES", ["n", "k"]))
        models.write(repository, "matmul", models.model(
            "matmul", [models.helper.make_node("MatMul", ["a", "b"], ["y"])],
            [models.value("a", "FP32", ["i", "j"]), models.value("b", "FP32", ["k", "l"])],
            [models.value("y", "FP32", ["i", "l"])]),
            "input " + models.tensors(a=("FP32", [-1, -1]), b=("FP32", [-1, -1])))

    def tearDown(self):
        self.lives()

    def each(self, model, arrays, *parts, outputs=None, **options):
        for protocol in PROTOCOLS:
            with self.subTest(protocol=protocol), self.refused(*parts):
                self.infer(protocol, model, arrays, outputs, **options)

    def test_names(self):
        a = random_array("FP32", (2, 4))
        self.each("add_sub", {"a": a, "c": a}, "unexpected inference input 'c'")
        self.each("add_sub", {"a": a, "b": a, "c": a}, "expected 2 inputs but got 3")
        self.each("add_sub", {"a": a}, "missing required input(s) ['b']")
        for outputs in (["nothing"], ["sum", "nothing"]):
            self.each("add_sub", {"a": a, "b": a}, "unexpected inference output 'nothing'", outputs=outputs)
        self.each("absent", {"a": a, "b": a}, "unknown model", "'absent'")
        self.each("add_sub", {"a": a, "b": a}, "unknown model", "version 7", model_version="7")

    def test_types(self):
        a = random_array("FP32", (2, 4))
        for wrong in ("FP64", "INT32", "FP16", "BYTES", "BOOL"):
            self.each("add_sub", {"a": a, "b": random_array(wrong, (2, 4))}, "input 'b' data-type is", "expects 'fp32'")

    def test_shapes(self):
        a = random_array("FP32", (2, 4))
        for shape in ((2, 5), (2,), (2, 4, 1), (2, 0)):
            self.each("add_sub", {"a": a, "b": random_array("FP32", shape)}, "shape for input 'b'")
        for shape in ((3, 4), (2, 3), (8,)):
            self.each("fixed", {"a": a, "b": random_array("FP32", shape)}, "shape for input 'b'")

    def test_batches(self):
        # Five items where four are allowed, none, and inputs that do not agree.
        for sizes, said in (((5, 5), "batch-size must be <= 4"), ((2, 3), "batch size does not match")):
            a, b = (random_array("FP32", (size, 4)) for size in sizes)
            self.each("add_sub", {"a": a, "b": b}, said)

    def test_the_log_tells_as_much_as_it_is_told_to(self):
        a, b = random_array("FP32", (2, 3)), random_array("FP32", (4, 5))

        def is_told():
            """Whether a request that fails is in the log."""
            before = len(self.server.log())
            self.each("matmul", {"a": a, "b": b}, "matmul")
            return re.search(r"metal_mps: request '.*' fails", self.server.log()[before:]) is not None

        for level in (0, 1, 0, 1):
            self.http.update_log_settings({"log_verbose_level": level})
            self.assertEqual(is_told(), level == 1)
        self.http.update_log_settings({"log_verbose_level": 0})

    def test_shapes_that_only_the_model_can_judge(self):
        a, b = random_array("FP32", (2, 3)), random_array("FP32", (4, 5))
        self.each("matmul", {"a": a, "b": b}, "matmul")
        b = random_array("FP32", (3, 5))
        for protocol in PROTOCOLS:
            same(self, self.infer(protocol, "matmul", {"a": a, "b": b}), {"y": a @ b}, tolerance=1e-5)
        self.assertGreaterEqual(self.statistics("matmul")["inference_stats"]["fail"]["count"], 2)

    def raw(self, model, shape, datatype, raw, **more):
        """Sends an input as it is; None if it is answered well, else the error."""
        head = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype,
                                       "parameters": {"binary_data_size": more.get("size", len(raw))}}]}).encode()
        request = urllib.request.Request(f"http://{self.server.http}/v2/models/{model}/infer", head + raw,
                                         {"Inference-Header-Content-Length": str(len(head))})
        try:
            with urllib.request.urlopen(request, timeout=30):
                return None
        except urllib.error.HTTPError as error:
            self.assertGreaterEqual(error.code, 400)
            return error.read().decode()

    def test_sizes(self):
        self.assertIsNone(self.raw("witness", [2, 3], "FP32", bytes(24)))
        for size in (0, 1, 23, 25, 48):
            self.assertIn("x", self.raw("witness", [2, 3], "FP32", bytes(size)), size)
        for shape in ([-1, 3], [2, -3], [1 << 40, 1 << 40], [1, 1 << 62]):
            self.assertIsNotNone(self.raw("witness", shape, "FP32", bytes(24)), shape)
        self.assertIsNotNone(self.raw("witness", [2, 3], "FP32", bytes(24), size=1 << 40))
        request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="witness")
        request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
        request.raw_input_contents.append(bytes(23))
        with self.assertRaises(Exception) as caught:
            self.grpc._client_stub.ModelInfer(request, timeout=30)
        self.assertIn("x", str(caught.exception))

    def test_strings(self):
        word = (3).to_bytes(4, "little") + b"abc"
        self.assertIsNone(self.raw("strings", [1, 2], "BYTES", word * 2))
        for raw in (b"", word, word * 3, word * 2 + b"x", word + word[:-1], word + word[:2], word + b"\xff\xff\xff\xff",
                    word + (4).to_bytes(4, "little") + b"abc"):
            self.assertIsNotNone(self.raw("strings", [1, 2], "BYTES", raw), raw)

    def test_junk(self):
        for body in (b"{", b"[]", b'{"inputs": 7}', b'{"inputs": [{}]}', b"\x00" * 1000, b'{"inputs": []}'):
            request = urllib.request.Request(f"http://{self.server.http}/v2/models/witness/infer", body)
            with self.subTest(body), self.assertRaises(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=30).close()


class Loads(Case):
    """Models and configurations that cannot be loaded, each with a reason."""

    strict = False
    options = ("--model-control-mode=explicit", "--load-model=witness")

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))

    def fails(self, config, *parts, proto=None):
        name = f"bad_{len(list(self.repository.iterdir()))}"
        models.write(self.repository, name, proto or models.identity("FP32", ["n", "k"]), config)
        with self.refused(name, *parts):
            self.http.load_model(name)
        self.assertFalse(self.http.is_model_ready(name))
        self.lives()

    def test_files(self):
        good = models.identity("FP32", ["n", "k"]).SerializeToString()
        # Of this length, so that what is cut off matters.
        large = models.slow().SerializeToString()
        for name, raw in (("missing", None), ("empty", b""), ("text", b"not a model"), ("cut", large[:len(large) // 2]),
                          ("zeros", bytes(1000)), ("ones", b"\xff" * 1000),
                          ("flipped", bytes(byte ^ 0x55 for byte in good))):
            with self.subTest(name):
                models.write(self.repository, name, None)
                if raw is not None:
                    (self.repository / name / "1/model.onnx").write_bytes(raw)
                with self.refused(name):
                    self.http.load_model(name)
                self.assertFalse(self.http.is_model_ready(name))
                self.lives()

    def test_files_with_every_byte_changed_once(self):
        good = models.add_sub([2, 4]).SerializeToString()
        home = self.repository / "changed"
        refused = 0
        models.write(self.repository, "changed", None)
        for position in range(0, len(good), 7):
            (home / "1/model.onnx").write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1:])
            try:
                # Some of them are models still.
                self.http.load_model("changed")
            except InferenceServerException as error:
                self.assertIn("changed", str(error))
                refused += 1
                continue
            self.http.unload_model("changed")
            self.assertTrue(eventually(lambda: not self.http.is_model_ready("changed")))
        self.assertGreater(refused, 10)
        self.lives()

    def test_an_operator_that_does_not_exist(self):
        proto = models.identity("FP32", ["n", "k"])
        proto.graph.node[0].op_type = "Frobnicate"
        self.fails("", "Frobnicate", proto=proto)

    def test_configuration_against_model(self):
        def ports(**more):
            of = {"x": ("FP32", [-1]), "y": ("FP32", [-1]), **more}
            return "max_batch_size: 4\ninput " + models.tensors(x=of["x"]) + "output " + models.tensors(y=of["y"])

        self.fails(ports(x=("INT32", [-1])), "x", "INT32")
        self.fails(ports(y=("FP64", [-1])), "y", "FP64")
        self.fails(ports(x=("FP32", [-1, 3])), "x")
        self.fails(ports(y=("FP32", [7])), "y")
        whole = ("FP32", [-1, -1])
        self.fails("input " + models.tensors(z=whole) + "output " + models.tensors(y=whole), "z")
        self.fails("input " + models.tensors(x=whole) + "output " + models.tensors(z=whole), "z")
        # Batches of a model that has none.
        self.fails("max_batch_size: 4\n", "batch", proto=models.identity("FP32", [2, 3]))
        self.fails('default_model_filename: "other.onnx"\n', "other.onnx")

    def test_what_is_not_served(self):
        ports = ('max_batch_size: 4\ninput [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] MORE } ]\noutput '
                 + models.tensors(y=("FP32", [-1])))
        self.fails("model_transaction_policy { decoupled: true }\n", "decoupled")
        self.fails(ports.replace("MORE", "allow_ragged_batch: true"), "ragged")
        self.fails(ports.replace("MORE", "optional: true"), "optional", "x")
        state = 'state [ { input_name: "s" output_name: "t" data_type: TYPE_FP32 dims: [ 1 ] } ]'
        self.fails(ports.replace("MORE", "") + f"sequence_batching {{ {state} }}\n", "sequence")
        made = 'kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x"'
        self.fails(f"batch_input [ {{ {made} }} ]\n", "batch_input")
        self.fails('model_operations { op_library_filename: "/nothing.so" }\n', "model_operations")

    def test_parameters(self):
        memory = "optimization.unified_memory"
        for name, text, *parts in (
            (f"{memory}.enable", "maybe", "true or false"),
            (f"{memory}.batch_optimization", "2", "true or false"),
            (f"{memory}.zero_copy_threshold", "1MB", "whole number"),
            (f"{memory}.zero_copy_threshold", "-1", "whole number"),
            (f"{memory}.tensor_patterns", "x=fast", "JSON list"),
            (f"{memory}.tensor_patterns", '[{"name":"x","pattern":"fast"}]', "cpu_dominant"),
            (f"{memory}.colour", "red", "does not exist"),
            (memory, "yes", "JSON object"),
            (memory, '{"enable": 7}', "true or false"),
        ):
            with self.subTest(name=name, text=text):
                self.fails(models.parameter(name, text), name, *parts)
        self.fails(models.parameter("intra_op_thread_count", "many"), "intra_op_thread_count")
        self.fails(models.parameter("fault", "none of these"), "fault")
        right = models.parameter(memory, '{"enable": false, "zero_copy_threshold": 65536}') + models.parameter(
            f"{memory}.tensor_patterns", '[{"name":"x","pattern":"cpu_dominant"}]')
        models.write(self.repository, "right", models.identity("FP32", ["n", "k"]), right)
        self.http.load_model("right")
        self.lives("right")

    def test_panic_at_load(self):
        self.fails(models.parameter("fault", "panic at load"), "panicked", "injected at load")


class Faults(Case):
    """Executions that go wrong inside."""

    faults = ("no response", "panic before run", "panic after run", "panic between answers", "out of memory")

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))
        for fault in cls.faults:
            models.write(repository, fault.replace(" ", "_"), models.doubled("FP32", ["n", "k"]),
                         models.batching(4, 3000) + models.parameter("fault", fault))

    def together(self, protocol, fault, count=4):
        x = random_array("FP32", (1, 5))
        model = fault.replace(" ", "_")
        calls = [lambda client: infer(client, protocol, model, {"x": x})] * count
        made = in_threads(self.server, protocol, calls)
        self.lives()
        good = [one for one in made if not isinstance(one, Exception)]
        for one in good:
            same(self, one, {"y": np.concatenate([x, x], axis=1)})
        bad = [one for one in made if isinstance(one, Exception)]
        for one in bad:
            self.assertIsInstance(one, InferenceServerException)
        return good, [str(one) for one in bad]

    def test_panics(self):
        for protocol in PROTOCOLS:
            for fault in ("panic before run", "panic after run"):
                for _ in range(2):
                    with self.subTest(protocol=protocol, fault=fault):
                        good, bad = self.together(protocol, fault)
                        self.assertEqual((len(good), len(bad)), (0, 4))
                        for error in bad:
                            self.assertIn("panicked", error)
        self.assertIn("injected at BeforeRun", self.server.log())
        self.assertIn("injected at AfterRun", self.server.log())
        # Each was counted, and nothing waits.
        for fault in ("panic_before_run", "panic_after_run"):
            self.assertTrue(eventually(lambda: self.statistics(fault)["inference_stats"]["fail"]["count"] == 16))

    def test_a_response_that_triton_does_not_make(self):
        """Not at once, that is: the request does not run, and the next try carries the error."""
        for protocol in PROTOCOLS:
            with self.subTest(protocol):
                good, bad = self.together(protocol, "no response")
                self.assertEqual((len(good), len(bad)), (0, 4))
                for error in bad:
                    self.assertIn("injected: no response", error)
        self.assertTrue(eventually(lambda: self.statistics("no_response")["inference_stats"]["fail"]["count"] == 8))
        self.assertEqual(self.statistics("no_response")["execution_count"], 0)

    def test_panic_between_answers(self):
        for protocol in PROTOCOLS:
            with self.subTest(protocol):
                good, bad = self.together(protocol, "panic between answers")
                # The first has its answer.
                self.assertEqual((len(good), len(bad)), (1, 3))
                for error in bad:
                    self.assertIn("panicked", error)

    def test_out_of_memory(self):
        for protocol in PROTOCOLS:
            with self.subTest(protocol):
                good, bad = self.together(protocol, "out of memory")
                self.assertEqual((len(good), len(bad)), (0, 4))
                for error in bad:
                    self.assertIn("out of memory", error)


class SmallPool(Case):
    """A pool that is too small for what models need."""

    environment = {"MPS_MAX_POOL_SIZE": "8M", "MPS_MAX_BUFFER_AGE": "1"}

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))
        models.write(repository, "gathered", models.add_sub(["n", "k"]), models.batching(2, 3000))
        models.write(repository, "summed", models.summed())
        models.write(repository, "filled", models.filled())

    def setUp(self):
        self.failures = pool(self.server)["weldpool_pool_failures_total"]

    def tearDown(self):
        self.lives()
        self.assertTrue(eventually(lambda: pool(self.server)["weldpool_pool_failures_total"] > self.failures))

    def test_inputs(self):
        for protocol in PROTOCOLS:
            for length, fits in ((3 << 20, False), (1000, True)):
                with self.subTest(protocol=protocol, length=length):
                    x = np.ones((1, length), np.float32)
                    calls = [lambda client: infer(client, protocol, "gathered", {"a": x, "b": x})] * 2
                    for made in in_threads(self.server, protocol, calls):
                        if fits:
                            same(self, made, {"sum": x + x, "difference": x - x})
                        else:
                            self.assertIsInstance(made, InferenceServerException)
                            self.assertRegex(str(made), "memory|limit")

    def test_between(self):
        one = np.ones(1, np.float32)
        for protocol in PROTOCOLS:
            with self.refused("memory"):
                self.infer(protocol, "summed", {"count": np.array([16 << 20]), "x": one})
            made = self.infer(protocol, "summed", {"count": np.array([1000]), "x": one})
            same(self, made, {"y": np.array([2000], np.float32)})

    def test_outputs(self):
        for protocol in PROTOCOLS:
            with self.refused("memory"):
                self.infer(protocol, "filled", {"count": np.array([16 << 20])})
            same(self, self.infer(protocol, "filled", {"count": np.array([1000])}), {"y": np.ones(1000, np.float32)})


class Cancellation(Case):
    """Requests that their client gives up."""

    @classmethod
    def fill(cls, repository):
        models.write(repository, "witness", models.identity("FP32", ["n", "k"]))
        one = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        models.write(repository, "slow", models.slow(), one)
        models.write(repository, "slow_pair", models.slow(batched=True), one + models.batching(2, 10_000))

    def rounds_of(self, seconds):
        """How many rounds take so long."""
        began = time.monotonic()
        self.infer("grpc", "slow", {"rounds": np.array([100])})
        return max(100, int(100 * seconds / (time.monotonic() - began)))

    def test_cancel_while_it_runs(self):
        answer = queue.Queue()
        rounds = self.rounds_of(600)
        began = time.monotonic()
        running = self.grpc.async_infer("slow", tensors("grpc", {"rounds": np.array([rounds])}),
                                        lambda result, error: answer.put(error or result))
        self.assertTrue(eventually(lambda: self.is_pending("slow", 0) and time.monotonic() - began > 1))
        running.cancel()
        self.assertIn("cancel", str(answer.get(timeout=10)).lower())
        # There is one instance, which the request would have for minutes.
        made = self.infer("grpc", "slow", {"rounds": np.array([1])})
        self.assertLess(time.monotonic() - began, 60)
        same(self, made, {"done": np.array([1])})
        self.lives()

    def test_a_batch_goes_on_for_who_still_waits(self):
        rounds = self.rounds_of(3)
        asked = [np.array([[rounds + number]]) for number in range(2)]
        answers = [queue.Queue() for _ in asked]
        calls = [
            self.grpc.async_infer("slow_pair", tensors("grpc", {"rounds": array}),
                                  lambda result, error, answer=answer: answer.put(error or result))
            for array, answer in zip(asked, answers)
        ]
        time.sleep(1)
        calls[0].cancel()
        self.assertIn("cancel", str(answers[0].get(timeout=10)).lower())
        made = answers[1].get(timeout=60)
        self.assertNotIsInstance(made, Exception)
        np.testing.assert_array_equal(made.as_numpy("done"), asked[1])
        self.assertEqual(self.statistics_of("slow_pair", 2, 1)["execution_count"], 1)

    def test_cancel_while_it_waits(self):
        answers, over = {}, threading.Event()

        def ask(name, rounds):
            def answered(result, error):
                answers[name] = error or result
                if len(answers) == 3:
                    over.set()

            return self.grpc.async_infer("slow", tensors("grpc", {"rounds": np.array([rounds])}), answered)

        before = self.statistics("slow")["inference_count"]
        began = time.monotonic()
        rounds = self.rounds_of(3)
        ask("slow", rounds)
        time.sleep(0.2)
        waiting = ask("cancelled", rounds * 50)
        self.assertTrue(eventually(lambda: self.is_pending("slow", 1)), self.server.metric_text())
        waiting.cancel()
        ask("next", 1)
        self.assertTrue(over.wait(60), answers)
        self.assertIsInstance(answers["cancelled"], InferenceServerException)
        self.assertIn("cancel", str(answers["cancelled"]).lower())
        for name, expected in (("slow", rounds), ("next", 1)):
            np.testing.assert_array_equal(answers[name].as_numpy("done"), [expected])
        # It never ran, or this would have taken minutes; and Triton counts it.
        self.assertLess(time.monotonic() - began, 60)
        self.assertTrue(eventually(self.counted), self.statistics("slow"))
        self.assertEqual(self.statistics("slow")["inference_count"], before + 3)
        self.lives()

    def is_pending(self, model, count):
        """Whether so many requests wait for an instance."""
        return f'nv_inference_pending_request_count{{model="{model}",version="1"}} {count}\n' in self.server.metric_text()

    def counted(self):
        stats = self.statistics("slow")["inference_stats"]
        return sum(stats.get(name, {}).get("count", 0) for name in ("fail", "cancel")) >= 1

    def test_clients_that_go_away(self):
        rounds = self.rounds_of(0.5)
        for _ in range(5):
            client = tritonclient.http.InferenceServerClient(self.server.http, network_timeout=0.05)
            with self.assertRaises(Exception):
                client.infer("slow", tensors("http", {"rounds": np.array([rounds])}))
            client.close()
        self.lives()
        same(self, self.infer("http", "slow", {"rounds": np.array([2])}), {"done": np.array([2])})


if __name__ == "__main__":
    unittest.main()
