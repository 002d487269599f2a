"""Talks to a running server as Triton's client does, and as no client should.

Needs `WELDPOOL_BIN`, the program, and the packages that `cargo xtask test` installs. Arguments name
the tests to run, as with `python -m unittest`.
"""

import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request
import zlib

import ml_dtypes
import numpy as np
import onnxruntime
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

import exchange
import server as servers

EXAMPLES = pathlib.Path(__file__).parents[4] / "examples"
PROGRAM = os.environ.get("WELDPOOL_BIN")

DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
             "BF16", "BYTES"]


def setUpModule():
    if not PROGRAM:
        raise RuntimeError("WELDPOOL_BIN is not set: run these tests with `cargo xtask test`")


class Case(unittest.TestCase):
    """A test with a server of its own kind, started once."""

    options = ()

    @classmethod
    def fill(cls, repository):
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.repository = pathlib.Path(folder.name)
        cls.fill(cls.repository)
        cls.server = servers.Server(PROGRAM, cls.repository, *cls.options)
        cls.addClassCleanup(cls.stop)
        cls.client = triton.InferenceServerClient(cls.server.http, concurrency=4)
        cls.addClassCleanup(cls.client.close)

    @classmethod
    def stop(cls):
        status = cls.server.stop()
        if status != 0:
            raise AssertionError(f"the server ended with status {status}")

    def refused(self, status, *parts):
        """Expects an error of the server with these words."""
        return self.assertRaisesRegex(InferenceServerException, f"(?s)\\[{status}\\].*" + ".*".join(map(re.escape, parts)))


class Recorded(Case):
    """What a real Triton was asked is answered in the same way, or as the recording says it shall."""

    options = ("--model-control-mode=explicit", "--load-model=*")

    @classmethod
    def fill(cls, repository):
        servers.write_recorded_repository(repository)

    def replay(self, group):
        cases = json.loads((servers.DATA / f"{group}.json").read_text())
        self.assertGreater(len(cases), 10)
        for case in cases:
            with self.subTest(case["name"]):
                request = case["request"]
                answer = exchange.send(self.server.http, request["method"], request["path"], request.get("headers"),
                                       exchange.body_of(request.get("body")))
                self.compare(case, answer)

    def compare(self, case, answer):
        recorded, ours = case["triton"], case.get("ours", {})
        self.assertEqual(answer.status, ours.get("status", recorded.get("status")), (answer, case))
        if case["request"]["method"] == "HEAD":
            self.assertEqual(answer.body, b"")
        elif answer.status == 200:
            expected = ours.get("body", recorded.get("body"))
            if expected is not None:
                self.same(case, exchange.body_of(expected), recorded.get("headers", {}), answer)
        elif answer.status != 400 or answer.body:
            self.assertEqual(answer.headers["content-type"], "application/json")
            message = json.loads(answer.body)["error"]
            if "error" in ours:
                self.assertIn(ours["error"], message)
            elif recorded["status"] != 200 and "body" in recorded:
                self.informs(message, json.loads(exchange.body_of(recorded["body"]))["error"])

    def informs(self, message, expected):
        """The message names each tensor that Triton's names, and each model that is not there."""
        for name in {"INPUT0", "INPUT1", "OUTPUT0", "NOPE", "nope"} & set(re.findall(r"'([^']*)'", expected)):
            self.assertIn(f"'{name}'", message)

    def same(self, case, expected, headers, answer):
        """The same body, apart from how numbers are written and what describes the server."""
        encoding = headers.get("content-encoding")
        if encoding == answer.headers.get("content-encoding") and encoding:
            decode = gzip.decompress if encoding == "gzip" else zlib.decompress
            expected, body = decode(expected), decode(answer.body)
        elif encoding:
            # Small bodies are not worth compressing.
            decode = gzip.decompress if encoding == "gzip" else zlib.decompress
            expected, body = decode(expected), answer.body
        else:
            body = answer.body
        length = answer.headers.get("inference-header-content-length")
        if length is None:
            expected, body = [expected, b""], [body, b""]
        else:
            blobs = len(body) - int(length)
            expected = [expected[:len(expected) - blobs], expected[len(expected) - blobs:]]
            body = [body[:int(length)], body[int(length):]]
        self.assertEqual(body[1], expected[1])
        if not expected[0]:
            return self.assertEqual(body[0], b"")
        expected, body = normalised(json.loads(expected[0])), normalised(json.loads(body[0]))
        if case["name"].startswith("config"):
            # The engine is another, so some of the configuration is.
            keys = ["name", "max_batch_size", "input", "output", "version_policy"]
            expected, body = ({key: side[key] for key in keys} for side in (expected, body))
        self.assertEqual(body, expected)

    def test_server(self):
        self.replay("server")

    def test_model(self):
        self.replay("model")

    def test_other(self):
        self.replay("other")

    def test_infer_json_good(self):
        self.replay("infer_json_good")

    def test_infer_json_bad(self):
        self.replay("infer_json_bad")

    def test_infer_binary(self):
        self.replay("infer_binary")

    def test_classification(self):
        self.replay("classification")

    def test_encoding(self):
        self.replay("encoding")

    def test_zz_repository(self):
        # Loads and unloads what the other groups use.
        self.replay("repository")


class Endurance(Case):
    """Thousands of requests, good and bad, leave nothing behind."""

    requests = 20_000
    clients = 4
    # Over the second half of the requests. The heap settles by some hundred KiB, not always early;
    # whatever is not freed after each request comes to more than this.
    growth_bytes_max = 2 << 20

    @classmethod
    def fill(cls, repository):
        servers.write_recorded_repository(repository)

    def live_bytes(self):
        text = exchange.send(self.server.metrics, "GET", "/metrics").body.decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return sum(sample.value for sample in families["weldpool_pool_live_bytes"].samples)

    def resident_bytes(self):
        pages = int(pathlib.Path(f"/proc/{self.server.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @unittest.skipUnless(sys.platform == "linux", "reads /proc")
    def test_nothing_is_left_behind(self):
        groups = ["infer_json_good", "infer_json_bad", "infer_binary", "classification", "encoding", "model", "server"]
        cases = [case for group in groups for case in json.loads((servers.DATA / f"{group}.json").read_text())]
        wire = [(case, exchange.body_of(case["request"].get("body"))) for case in cases]
        failures = []

        def work(connection, first, last):
            for number in range(first, last, self.clients):
                case, body = wire[number % len(wire)]
                request = case["request"]
                answer = connection.send(request["method"], request["path"], request.get("headers"), body)
                expected = case.get("ours", case["triton"]).get("status")
                if answer.status != expected:
                    failures.append((case["name"], expected, answer))

        step = 500
        connections = [exchange.Connection(self.server.http) for _ in range(self.clients)]
        loaded = self.live_bytes()
        samples = []
        for start in range(0, self.requests, step):
            threads = [threading.Thread(target=work, args=(connection, start + client, start + step))
                       for client, connection in enumerate(connections)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            samples.append(self.resident_bytes())
        for connection in connections:
            connection.close()
        self.assertEqual(failures[:5], [])
        self.assertEqual(self.live_bytes(), loaded)
        later = samples[len(samples) // 2:]
        self.assertLess(np.median(later[-3:]) - np.median(later[:3]), self.growth_bytes_max, samples)


def normalised(value):
    """JSON in which what may differ between servers does not."""
    if isinstance(value, dict):
        if "outputs" in value:
            for output in value["outputs"]:
                if output.get("datatype") == "FP32" and "data" in output:
                    with np.errstate(over="ignore"):
                        output["data"] = [repr(np.float32(element)) for element in output["data"]]
        for key in ("platform", "version", "extensions", "last_inference", "inference_stats", "memory_usage",
                    "batch_stats", "response_stats", "inference_count", "execution_count"):
            if key != "version" or "extensions" in value:
                value.pop(key, None)
        if "extensions" not in value and value.get("name") in ("triton", "weldpool"):
            value.pop("name")
        return {key: normalised(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    return repr(value) if isinstance(value, float) else value


def random_array(datatype, shape, seed=0):
    """Elements over the whole range of a type."""
    random = np.random.default_rng(seed)
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if datatype == "BYTES":
        words = [b"", b"a", "h\u00e9 \U0001f600".encode(), b"x" * 1000]
        return np.array([words[index % len(words)] for index in range(int(np.prod(shape)))], dtype=object).reshape(shape)
    if datatype in ("FP16", "FP32", "FP64"):
        return random.standard_normal(shape).astype(triton_to_np_dtype(datatype))
    if datatype == "BF16":
        return random.standard_normal(shape).astype(ml_dtypes.bfloat16)
    limits = np.iinfo(triton_to_np_dtype(datatype))
    return random.integers(limits.min, limits.max, shape, dtype=limits.dtype, endpoint=True)


def tensor(name, array, datatype, binary=True):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


class Client(Case):
    """Triton's Python client against the models of examples/."""

    options = ("--model-control-mode=explicit", "--load-model=*")

    @classmethod
    def fill(cls, repository):
        subprocess.run([sys.executable, EXAMPLES / "make_models.py", "--output-dir", repository], check=True,
                       stdout=subprocess.DEVNULL)

    def infer(self, model, arrays, outputs=None, **options):
        inputs = [tensor(name, array, np_datatype(array)) for name, array in arrays.items()]
        return self.client.infer(model, inputs, outputs=outputs, **options)

    def test_server(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        metadata = self.client.get_server_metadata()
        self.assertIn("binary_tensor_data", metadata["extensions"])
        self.assertNotIn("system_shared_memory", metadata["extensions"])

    def test_model(self):
        self.assertTrue(self.client.is_model_ready("simple_cnn"))
        self.assertTrue(self.client.is_model_ready("simple_cnn", "1"))
        self.assertFalse(self.client.is_model_ready("simple_cnn", "2"))
        self.assertFalse(self.client.is_model_ready("nothing"))
        metadata = self.client.get_model_metadata("simple_cnn")
        self.assertEqual(metadata["versions"], ["1"])
        self.assertEqual(metadata["inputs"], [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 32, 32]}])
        config = self.client.get_model_config("simple_cnn")
        self.assertEqual(config["input"][0]["data_type"], "TYPE_FP32")
        self.assertGreaterEqual(config["max_batch_size"], 1)

    def test_every_type_in_both_forms(self):
        for datatype in DATATYPES:
            array = random_array(datatype, (2, 5))
            for binary_in in (True, False):
                for binary_out in (True, False):
                    if datatype in ("FP16", "BF16") and not (binary_in and binary_out):
                        continue
                    with self.subTest(datatype, binary_in=binary_in, binary_out=binary_out):
                        result = self.client.infer(
                            f"identity_{datatype.lower()}", [tensor("x", array, datatype, binary_in)],
                            outputs=[triton.InferRequestedOutput("y", binary_data=binary_out)])
                        made = result.as_numpy("y")
                        if datatype == "BYTES" and not binary_out:
                            made = np.vectorize(str.encode, otypes=[object])(made)
                        self.assertEqual(made.shape, array.shape)
                        if datatype == "BYTES":
                            self.assertEqual(made.tolist(), array.tolist())
                        else:
                            self.assertEqual(made.dtype, array.dtype)
                            self.assertEqual(made.tobytes(), array.tobytes())

    def test_half_precision_has_no_json_form(self):
        for datatype, array in (("FP16", np.ones((1, 1), np.float16)), ("BF16", np.ones((1, 1), ml_dtypes.bfloat16))):
            with self.subTest(datatype):
                inputs = [tensor("x", array, datatype)]
                with self.refused(400, "'y'", datatype, "binary"):
                    self.client.infer(f"identity_{datatype.lower()}", inputs,
                                      outputs=[triton.InferRequestedOutput("y", binary_data=False)])

    def test_results_are_those_of_onnxruntime(self):
        random = np.random.default_rng(1)
        cases = {
            "simple_cnn": {"x": random.standard_normal((3, 3, 32, 32)).astype(np.float32)},
            "residual_block": {"x": random.standard_normal((1, 8, 16, 16)).astype(np.float32)},
            "add_sub": {"a": np.arange(16, dtype=np.int32).reshape(1, 16), "b": np.ones((1, 16), np.int32)},
            "non_zero": {"x": np.array([0, 1, 0, 2, 3], np.float32)},
        }
        for model, arrays in cases.items():
            with self.subTest(model):
                session = onnxruntime.InferenceSession(self.repository / model / "1" / "model.onnx",
                                                       providers=["CPUExecutionProvider"])
                result = self.infer(model, arrays)
                for output, expected in zip(session.get_outputs(), session.run(None, arrays)):
                    made = result.as_numpy(output.name)
                    self.assertEqual(made.shape, expected.shape)
                    self.assertEqual(made.tobytes(), expected.tobytes())

    def test_large_tensors(self):
        array = random_array("FP32", (4, 1 << 20))
        self.assertEqual(self.infer("identity", {"x": array}).as_numpy("y").tobytes(), array.tobytes())
        array = array[:1, :200_000]
        result = self.client.infer("identity", [tensor("x", array, "FP32", binary=False)],
                                   outputs=[triton.InferRequestedOutput("y", binary_data=False)])
        self.assertEqual(result.as_numpy("y").tobytes(), array.tobytes())

    def test_empty_tensors(self):
        for datatype in ("FP32", "BYTES"):
            for binary in (True, False):
                with self.subTest(datatype, binary=binary):
                    array = random_array(datatype, (1, 0))
                    result = self.client.infer(f"identity_{datatype.lower()}", [tensor("x", array, datatype, binary)],
                                               outputs=[triton.InferRequestedOutput("y", binary_data=binary)])
                    self.assertEqual(result.get_output("y")["shape"], [1, 0])

    def test_not_a_number(self):
        array = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
        result = self.client.infer("identity", [tensor("x", array, "FP32", binary=False)],
                                   outputs=[triton.InferRequestedOutput("y", binary_data=False)])
        made = result.as_numpy("y")
        np.testing.assert_array_equal(made, array)
        self.assertTrue(np.signbit(made[0, 3]))

    def test_requested_outputs(self):
        arrays = {"a": np.full((1, 16), 5, np.int32), "b": np.ones((1, 16), np.int32)}
        result = self.infer("add_sub", arrays, [triton.InferRequestedOutput("difference")])
        self.assertIsNone(result.as_numpy("sum"))
        self.assertEqual(result.as_numpy("difference").tolist(), [[4] * 16])
        outputs = [triton.InferRequestedOutput("difference", binary_data=False), triton.InferRequestedOutput("sum")]
        result = self.infer("add_sub", arrays, outputs)
        self.assertEqual([output["name"] for output in result.get_response()["outputs"]], ["difference", "sum"])
        self.assertEqual(result.as_numpy("sum").tolist(), [[6] * 16])
        self.assertEqual(result.as_numpy("difference").tolist(), [[4] * 16])

    def test_id_and_parameters(self):
        array = np.ones((1, 1), np.float32)
        inputs = [tensor("x", array, "FP32")]
        result = self.client.infer("identity", inputs, request_id="h\u00e9 \"1\"", priority=1, timeout=1_000_000,
                                   parameters={"text": "x", "number": 1, "flag": True})
        self.assertEqual(result.get_response()["id"], "h\u00e9 \"1\"")
        self.assertEqual(result.get_response()["model_version"], "1")
        with self.refused(400, "[request id: mine]", "'nothing'"):
            self.client.infer("identity", inputs, request_id="mine", outputs=[triton.InferRequestedOutput("nothing")])

    def test_compression(self):
        array = np.zeros((1, 10_000), np.float32)
        for request in (None, "gzip", "deflate"):
            for response in (None, "gzip", "deflate"):
                for binary in (True, False):
                    with self.subTest(request=request, response=response, binary=binary):
                        result = self.client.infer(
                            "identity", [tensor("x", array, "FP32", binary)],
                            outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
                            request_compression_algorithm=request, response_compression_algorithm=response)
                        self.assertEqual(result.as_numpy("y").tobytes(), array.tobytes())

    def test_classification(self):
        scores = np.array([[0.25, 4, 3, 9, -1]], np.float32)
        result = self.infer("identity", {"x": scores}, [triton.InferRequestedOutput("y", class_count=2)])
        self.assertEqual(result.as_numpy("y").tolist(), [[b"9.000000:3", b"4.000000:1"]])

    def test_many_clients_at_once(self):
        failures = []

        def work(seed):
            with triton.InferenceServerClient(self.server.http) as client:
                for step in range(30):
                    array = random_array("FP32", (1, 1 + seed * step % 700), seed)
                    made = client.infer("identity", [tensor("x", array, "FP32")]).as_numpy("y")
                    if made.tobytes() != array.tobytes():
                        failures.append((seed, step))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_errors_name_what_is_wrong(self):
        array = np.ones((1, 16), np.float32)
        with self.refused(404, "'nothing'"):
            self.client.infer("nothing", [tensor("x", array, "FP32")])
        with self.refused(404, "'identity' version 7"):
            self.client.infer("identity", [tensor("x", array, "FP32")], model_version="7")
        with self.refused(400, "'z'"):
            self.client.infer("identity", [tensor("z", array, "FP32")])
        with self.refused(400, "'x'", "'INT64'", "'FP32'"):
            self.client.infer("identity", [tensor("x", array.astype(np.int64), "INT64")])
        with self.refused(400, "'x'", "[1,3]"):
            self.client.infer("residual_block", [tensor("x", array[:, :3], "FP32")])
        with self.refused(400, "'b'"):
            self.client.infer("add_sub", [tensor("a", array.astype(np.int32), "INT32")])
        self.assertTrue(self.client.is_server_ready())

    def test_statistics(self):
        def counts():
            entry, = self.client.get_inference_statistics("fp16_identity")["model_stats"]
            return entry["inference_count"], entry["execution_count"], entry["inference_stats"]

        before = counts()
        for _ in range(3):
            self.infer("fp16_identity", {"x": np.ones((2, 8), np.float16)})
        after = counts()
        self.assertEqual(after[0] - before[0], 6)
        self.assertEqual(after[1] - before[1], 3)
        self.assertEqual(after[2]["success"]["count"] - before[2]["success"]["count"], 3)
        for phase in ("queue", "compute_input", "compute_infer", "compute_output"):
            self.assertEqual(after[2][phase]["count"] - before[2][phase]["count"], 3)
            self.assertLess(after[2][phase]["ns"], after[2]["success"]["ns"] + 1)
        every = self.client.get_inference_statistics()["model_stats"]
        self.assertGreater(len(every), 10)

    def test_metrics(self):
        self.infer("identity", {"x": np.ones((1, 1), np.float32)})
        with urllib.request.urlopen(f"http://{self.server.metrics}/metrics") as answer:
            self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        samples = families["nv_inference_request_success"].samples
        identity, = [sample for sample in samples if sample.labels == {"model": "identity", "version": "1"}]
        self.assertGreaterEqual(identity.value, 1)
        self.assertTrue(any(name.startswith("weldpool_pool") for name in families), families.keys())
        self.assertEqual(exchange.send(self.server.metrics, "POST", "/metrics").status, 405)
        self.assertEqual(exchange.send(self.server.metrics, "GET", "/v2").status, 404)
        self.assertEqual(exchange.send(self.server.http, "GET", "/metrics").status, 404)

    def test_repository(self):
        index = {entry["name"]: entry for entry in self.client.get_model_repository_index()}
        self.assertEqual(index["large_conv"], {"name": "large_conv", "version": "1", "state": "READY"})
        self.client.unload_model("large_conv")
        self.assertFalse(self.client.is_model_ready("large_conv"))
        index = {entry["name"]: entry for entry in self.client.get_model_repository_index()}
        self.assertEqual(index["large_conv"]["state"], "UNAVAILABLE")
        self.assertTrue(self.client.is_server_ready())
        self.client.load_model("large_conv")
        self.assertTrue(self.client.is_model_ready("large_conv"))
        with self.assertRaisesRegex(InferenceServerException, "nothing"):
            self.client.load_model("nothing")

    def test_loading_with_configuration_and_files(self):
        self.client.load_model("simple_cnn", config=json.dumps({"max_batch_size": 2}))
        self.assertEqual(self.client.get_model_config("simple_cnn")["max_batch_size"], 2)
        self.client.load_model("simple_cnn")
        self.assertEqual(self.client.get_model_config("simple_cnn")["max_batch_size"], 4)
        content = (self.repository / "add_sub" / "1" / "model.onnx").read_bytes()
        self.client.load_model("brought", config=json.dumps({"backend": "onnxruntime"}),
                               files={"file:1/model.onnx": content})
        arrays = {"a": np.full((1, 16), 5, np.int32), "b": np.ones((1, 16), np.int32)}
        self.assertEqual(self.infer("brought", arrays).as_numpy("sum").tolist(), [[6] * 16])
        self.client.unload_model("brought")


def np_datatype(array):
    from tritonclient.utils import np_to_triton_dtype

    return np_to_triton_dtype(array.dtype)


if __name__ == "__main__":
    unittest.main(verbosity=2)
