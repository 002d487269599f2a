"""What models answer in a real Triton: the results of onnxruntime, and what Triton says about them.

Needs what `cargo xtask test` sets up. Arguments name the tests to run, as with `python -m unittest`.
"""

import itertools
import json
import pathlib
import re
import tempfile
import time
import unittest

import numpy as np
import onnx
import tritonclient.grpc.service_pb2 as messages
import tritonclient.http
import tritonclient.utils.shared_memory as shared_memory
from onnx import helper, numpy_helper
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

import grpc
import models
import nodes
from cases import (
    OCR_MODELS, PROTOCOLS, Case, Reference, connect_one, eventually, in_threads, infer, pool, random_array, same,
    tensors,
)
from triton import Triton, require

# Those that JSON can carry.
IN_JSON = [name for name in models.TYPES if name not in ("FP16", "BF16")]
# Where a type lies in the contents of a message; FP16 and BF16 have no place there.
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


def setUpModule():
    require()


class Types(Case):
    """Every type of an element, in every shape and on every way."""

    @classmethod
    def fill(cls, repository):
        for datatype in models.TYPES:
            name = datatype.lower()
            models.write(repository, f"batched_{name}", models.doubled(datatype, ["n", "k"]))
            models.write(repository, f"free_{name}", models.doubled(datatype, ["n", "k"]), free(datatype))
            models.write(repository, f"fixed_{name}", models.identity(datatype, [2, 3]))
            models.write(repository, f"scalar_{name}", models.identity(datatype, []))

    def each(self, check):
        for datatype, protocol in itertools.product(models.TYPES, PROTOCOLS):
            with self.subTest(datatype=datatype, protocol=protocol):
                check(datatype, protocol, datatype.lower())

    def check(self, protocol, name, proto, x, **options):
        same(self, self.infer(protocol, name, {"x": x}, **options), Reference(proto)({"x": x}))

    def test_batches(self):
        def check(datatype, protocol, name):
            proto = models.doubled(datatype, ["n", "k"])
            for shape in ((1, 1), (4, 5), (3, 64)):
                self.check(protocol, f"batched_{name}", proto, random_array(datatype, shape, seed=shape[1]))

        self.each(check)

    def test_no_batches(self):
        def check(datatype, protocol, name):
            proto = models.doubled(datatype, ["n", "k"])
            for shape in ((1, 1), (9, 5), (2, 1000)):
                self.check(protocol, f"free_{name}", proto, random_array(datatype, shape))

        self.each(check)

    def test_fixed_shapes(self):
        def check(datatype, protocol, name):
            x = random_array(datatype, (2, 3), seed=3)
            self.check(protocol, f"fixed_{name}", models.identity(datatype, [2, 3]), x)

        self.each(check)

    def test_scalars(self):
        # One element in the protocol, where every tensor has dimensions.
        def check(datatype, protocol, name):
            x = random_array(datatype, (1,), seed=4)
            same(self, self.infer(protocol, f"scalar_{name}", {"x": x}), {"y": x})

        self.each(check)

    def test_zero_elements(self):
        def check(datatype, protocol, name):
            proto = models.doubled(datatype, ["n", "k"])
            dtype = random_array(datatype, (1,)).dtype
            for shape in ((0, 3), (2, 0), (0, 0)):
                self.check(protocol, f"free_{name}", proto, np.empty(shape, dtype))
            self.check(protocol, f"batched_{name}", proto, np.empty((2, 0), dtype))

        self.each(check)

    def test_json(self):
        for datatype in IN_JSON:
            with self.subTest(datatype):
                x = random_array(datatype, (3, 4), seed=5)
                proto = models.doubled(datatype, ["n", "k"])
                made = self.infer("http", f"batched_{datatype.lower()}", {"x": x}, ["y"], binary=False)
                # Triton's reader of numbers may be off by the last bit.
                same(self, made, Reference(proto)({"x": x}), tolerance=1e-15 if datatype == "FP64" else 0.0)

    def test_contents_of_a_message(self):
        # Not the raw bytes that Triton's client always sends.
        channel = grpc.insecure_channel(self.server.grpc)
        self.addCleanup(channel.close)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for datatype, field in CONTENTS.items():
            with self.subTest(datatype):
                x = random_array(datatype, (2, 3), seed=6)
                request = messages.ModelInferRequest(model_name=f"batched_{datatype.lower()}")
                one = request.inputs.add(name="x", datatype=datatype, shape=[2, 3])
                getattr(one.contents, field).extend(x.reshape(-1).tolist())
                answer = stub.ModelInfer(request, timeout=30)
                expected = np.concatenate([x, x], axis=1)
                raw = expected.tobytes() if datatype != "BYTES" else serialize_byte_tensor(expected).item()
                self.assertEqual(answer.raw_output_contents[0], raw)
                self.assertEqual(list(answer.outputs[0].shape), [2, 6])


def free(datatype):
    """Complete shapes, so nothing is a batch."""
    return "input " + models.tensors(x=(datatype, [-1, -1])) + "output " + models.tensors(y=(datatype, [-1, -1]))


class Models(Case):
    """Models of other forms."""

    @classmethod
    def fill(cls, repository):
        for protocol in PROTOCOLS:
            models.write(repository, f"non_zero_{protocol}", models.non_zero())
            # Its file says that all elements are not zero, which is so at times.
            models.write(repository, f"misnamed_{protocol}", models.non_zero("n"))
        models.write(repository, "non_zero_rows", models.non_zero_rows(),
                     "max_batch_size: 4\ninput " + models.tensors(x=("FP32", [3]))
                     + "output " + models.tensors(y=("INT64", [2])))
        models.write(repository, "filled", models.filled())
        models.write(repository, "scaled", models.scaled(),
                     'input [{ name: "x" data_type: TYPE_FP32 dims: -1 },'
                     ' { name: "scale" data_type: TYPE_FP32 dims: 1 optional: true }]\n')
        models.write(repository, "add_sub", models.add_sub(["n", 4]))
        models.write(repository, "add_sub_free", models.add_sub(["n", "k"]),
                     "input " + models.tensors(a=("FP32", [-1, -1]), b=("FP32", [-1, -1])))
        # Both in another order than the model's, and one output is not served at all.
        models.write(repository, "reordered", models.add_sub([2, 4]),
                     "input " + models.tensors(b=("FP32", [2, 4]), a=("FP32", [2, 4]))
                     + "output " + models.tensors(difference=("FP32", [2, 4])))
        models.write(repository, "chosen", nodes.load("test_top_k"),
                     "output " + models.tensors(indices=("INT64", [3, 3])))
        models.write(repository, "reshaped", models.identity("FP32", ["n", 2, 3]),
                     "max_batch_size: 4\ninput " + models.tensors(x=("FP32", [6], [2, 3]))
                     + "output " + models.tensors(y=("FP32", [3, 2], [2, 3])))
        models.write(repository, "reshaped_free", models.identity("FP32", [2, 3]),
                     "input " + models.tensors(x=("FP32", [6], [2, 3]))
                     + "output " + models.tensors(y=("FP32", [6], [2, 3])))
        models.write(repository, "no_dimensions", models.identity("FP32", ["n"]),
                     "max_batch_size: 4\ninput " + models.tensors(x=("FP32", [1], []))
                     + "output " + models.tensors(y=("FP32", [1], [])))
        models.write(repository, "bool", models.identity("BOOL", ["n", "k"]))
        models.write(repository, "narrowed", models.identity("FP32", ["n", "k"]),
                     "max_batch_size: 4\ninput " + models.tensors(x=("FP32", [3]))
                     + "output " + models.tensors(y=("FP32", [-1])))

    def test_shapes_that_depend_on_values(self):
        reference = Reference(models.non_zero())
        for protocol in PROTOCOLS:
            for x in ([0, 1, 2], [0, 0, 0], [1, 1, 1, 1], [1, 0, 1], list(range(1000))):
                x = np.array(x, np.float32)
                same(self, self.infer(protocol, f"non_zero_{protocol}", {"x": x}), reference({"x": x}))
            for count in (5, 0, 1000, 3):
                made = self.infer(protocol, "filled", {"count": np.array([count])})
                same(self, made, {"y": np.ones(count, np.float32)})

    def test_a_file_that_is_wrong_of_a_shape(self):
        reference = Reference(models.non_zero())
        for protocol in PROTOCOLS:
            model = f"misnamed_{protocol}"
            all_three, two = (np.array(x, np.float32) for x in ([1, 2, 3], [0, 1, 2]))
            for _ in range(3):
                same(self, self.infer(protocol, model, {"x": all_three}), reference({"x": all_three}))
            # It is believed once, and not again.
            with self.refused("y", "[1,3]", "[1,2]"):
                self.infer(protocol, model, {"x": two})
            for x in (two, all_three, two):
                same(self, self.infer(protocol, model, {"x": x}), reference({"x": x}))

    def test_an_output_that_is_no_batch(self):
        for protocol, rows in itertools.product(PROTOCOLS, (1, 2)):
            x = np.ones((rows, 3), np.float32)
            for _ in range(3):
                with self.refused("y", "batch"):
                    self.infer(protocol, "non_zero_rows", {"x": x})

    def test_outputs_are_in_the_models_order(self):
        x = random_array("FP32", (3, 4))
        for protocol, names in itertools.product(PROTOCOLS, (["difference", "sum"], ["sum", "difference"], None)):
            for _ in range(3):
                made = self.infer(protocol, "add_sub", {"a": x, "b": x}, names)
                self.assertEqual(list(made), ["sum", "difference"])

    def test_a_bool_is_zero_or_one(self):
        for protocol, expected in itertools.product(PROTOCOLS, ([0, 1, 1], [0, 2, 1])):
            raw = bytes(expected)
            x = PROTOCOLS[protocol].InferInput("x", [1, 3], "BOOL")
            x.set_data_from_numpy(np.zeros((1, 3), bool))
            if protocol == "http":
                x._raw_data = raw
            else:
                x._raw_content = raw
            if 2 in expected:
                with self.refused("x", "bool", "2"):
                    self.clients[protocol].infer("bool", [x])
            else:
                made = self.clients[protocol].infer("bool", [x]).as_numpy("y")
                np.testing.assert_array_equal(made, np.frombuffer(raw, bool).reshape(1, 3))

    def test_an_input_that_may_be_left_out(self):
        x = np.array([1, 2, 3], np.float32)
        for protocol in PROTOCOLS:
            for scale in (None, 10, None, 0.5):
                given = {} if scale is None else {"scale": np.array([scale], np.float32)}
                made = self.infer(protocol, "scaled", {"x": x, **given})
                same(self, made, {"y": x * np.float32(2 if scale is None else scale)})

    def test_some_of_the_outputs(self):
        a, b = random_array("FP32", (3, 4)), random_array("FP32", (3, 4), seed=1)
        expected = {"sum": a + b, "difference": a - b}
        for protocol, model in itertools.product(PROTOCOLS, ("add_sub", "add_sub_free")):
            for names in (["sum"], ["difference"], ["sum", "difference"], ["difference", "sum"], None):
                with self.subTest(protocol=protocol, model=model, outputs=names):
                    made = self.infer(protocol, model, {"b": b, "a": a}, names)
                    same(self, made, {name: expected[name] for name in names or expected})

    def test_a_configuration_may_reorder_and_choose(self):
        a, b = random_array("FP32", (2, 4)), random_array("FP32", (2, 4), seed=1)
        for protocol in PROTOCOLS:
            same(self, self.infer(protocol, "reordered", {"a": a, "b": b}), {"difference": a - b})
            with self.refused("sum"):
                self.infer(protocol, "reordered", {"a": a, "b": b}, ["sum"])

        # The first output, which is not served, is of another type.
        inputs, outputs = nodes.recorded("test_top_k")
        for protocol in PROTOCOLS:
            for _ in range(2):
                same(self, self.infer(protocol, "chosen", inputs), {"indices": outputs["indices"]})

    def test_reshape(self):
        x = random_array("FP32", (3, 6))
        for protocol in PROTOCOLS:
            same(self, self.infer(protocol, "reshaped", {"x": x}), {"y": x.reshape(3, 3, 2)})
            same(self, self.infer(protocol, "reshaped_free", {"x": x[0]}), {"y": x[0]})
            same(self, self.infer(protocol, "no_dimensions", {"x": x[:, :1]}), {"y": x[:, :1]})

    def test_a_configuration_may_narrow(self):
        for protocol in PROTOCOLS:
            x = random_array("FP32", (2, 3))
            same(self, self.infer(protocol, "narrowed", {"x": x}), {"y": x})
            with self.refused("shape", "x"):
                self.infer(protocol, "narrowed", {"x": random_array("FP32", (2, 4))})

    def test_requests_keep_their_id_and_their_order(self):
        x = random_array("FP32", (1, 3))
        for number in range(20):
            result = self.http.infer("narrowed", tensors("http", {"x": x}), request_id=f"request {number}")
            self.assertEqual(result.get_response()["id"], f"request {number}")


class Batches(Case):
    """Requests of several clients that run together."""

    # Long enough that all clients have sent theirs; a batch that is full does not wait for it.
    delay_ms = 3000

    @classmethod
    def fill(cls, repository):
        for datatype in ("FP32", "BYTES", "BOOL", "BF16", "INT64"):
            models.write(repository, f"full_{datatype.lower()}", models.doubled(datatype, ["n", "k"]),
                         models.batching(8, cls.delay_ms))
        models.write(repository, "add_sub", models.add_sub(["n", 4]), models.batching(8, cls.delay_ms))
        models.write(repository, "shapes", models.doubled("FP32", ["n", "k"]), models.batching(8, 200))
        models.write(repository, "strings", models.doubled("BYTES", ["n", "k"]), models.batching(8, 200))

    def together(self, protocol, model, requests, outputs=None):
        calls = [lambda client, request=request, names=names: infer(client, protocol, model, request, names)
                 for request, names in zip(requests, outputs or [None] * len(requests))]
        made = in_threads(self.server, protocol, calls)
        for one in made:
            if isinstance(one, Exception):
                raise one
        return made

    def test_a_full_batch_is_one_execution(self):
        for protocol, datatype in itertools.product(PROTOCOLS, ("FP32", "BYTES", "BOOL", "BF16", "INT64")):
            with self.subTest(datatype=datatype, protocol=protocol):
                model = f"full_{datatype.lower()}"
                before = self.statistics(model)
                requests = [{"x": random_array(datatype, (items, 7), seed=items + position)}
                            for position, items in enumerate((1, 2, 1, 1, 3))]
                made = self.together(protocol, model, requests)
                reference = Reference(models.doubled(datatype, ["n", "k"]))
                for request, one in zip(requests, made):
                    same(self, one, reference(request))
                after = self.statistics_of(model, before["inference_count"] + 8, before["execution_count"] + 1)
                self.assertEqual(after["execution_count"] - before["execution_count"], 1)
                answered = after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"]
                self.assertEqual(answered, 5)
                sizes = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
                self.assertEqual(sizes, {8: after["execution_count"]})

    def test_each_request_of_a_batch_gets_the_outputs_that_it_wants(self):
        wanted = [["sum"], ["difference"], None, ["difference", "sum"]]
        requests = [{"a": random_array("FP32", (2, 4), seed=index), "b": random_array("FP32", (2, 4), seed=9 - index)}
                    for index in range(4)]
        made = self.together("grpc", "add_sub", requests, wanted)
        for request, names, one in zip(requests, wanted, made):
            expected = {"sum": request["a"] + request["b"], "difference": request["a"] - request["b"]}
            same(self, one, {name: expected[name] for name in names or expected})
        self.assertEqual(self.statistics_of("add_sub", 8, 1)["execution_count"], 1)

    def test_different_shapes_in_flight(self):
        for protocol, (model, datatype) in itertools.product(PROTOCOLS, (("shapes", "FP32"), ("strings", "BYTES"))):
            with self.subTest(protocol=protocol, model=model):
                before = self.statistics(model)
                requests = [{"x": random_array(datatype, (1 + index % 2, 3 + index % 3), seed=index)}
                            for index in range(10)]
                made = self.together(protocol, model, requests)
                reference = Reference(models.doubled(datatype, ["n", "k"]))
                for request, one in zip(requests, made):
                    same(self, one, reference(request))
                after = self.statistics_of(model, before["inference_count"] + 15)
                self.assertGreaterEqual(after["execution_count"] - before["execution_count"], 3)


class Nodes(Case):
    """The tests that ONNX has of its operators, with the results that come with them."""

    @classmethod
    def fill(cls, repository):
        for name in nodes.CHOSEN:
            models.write(repository, name, nodes.load(name))

    def test_nodes(self):
        self.assertGreaterEqual(len(nodes.CHOSEN), 40)
        for protocol, name in itertools.product(PROTOCOLS, nodes.CHOSEN):
            with self.subTest(protocol=protocol, name=name):
                inputs, outputs = nodes.recorded(name)
                # A scalar is one element in the protocol.
                inputs = {name: array.reshape(array.shape or (1,)) for name, array in inputs.items()}
                same(self, self.infer(protocol, name, inputs), outputs, tolerance=1e-4)


class Ocr(Case):
    """Models that people use: text detection, direction of a line, recognition of a line."""

    shapes = {
        "det": [(1, 3, 64, 96), (1, 3, 96, 64)],
        "cls": [(1, 3, 48, 192), (3, 3, 48, 192)],
        "rec": [(1, 3, 48, 160), (2, 3, 48, 96)],
    }

    @classmethod
    def fill(cls, repository):
        if not OCR_MODELS:
            raise RuntimeError("WELDPOOL_OCR_MODELS is not set: run these tests with `cargo xtask test`")
        for name in cls.shapes:
            models.write(repository, name, onnx.load(pathlib.Path(OCR_MODELS) / f"{name}.onnx"))

    def test_ocr_models(self):
        for name, shapes in self.shapes.items():
            reference = Reference(str(pathlib.Path(OCR_MODELS) / f"{name}.onnx"))
            port = reference.session.get_inputs()[0].name
            for protocol, shape in itertools.product(PROTOCOLS, shapes):
                with self.subTest(name=name, protocol=protocol, shape=shape):
                    x = random_array("FP32", shape)
                    same(self, self.infer(protocol, name, {port: x}), reference({port: x}), tolerance=1e-4)


class SharedMemory(Case):
    """Inputs and outputs in memory that client and server share."""

    size = 1 << 16

    @classmethod
    def fill(cls, repository):
        models.write(repository, "add_sub", models.add_sub(["n", 4]))
        models.write(repository, "strings", models.doubled("BYTES", ["n", "k"]))
        models.write(repository, "together", models.doubled("FP32", ["n", "k"]), models.batching(2, 3000))

    def setUp(self):
        self.regions = {}
        for name in ("in", "out"):
            key = f"/weldpool_{self.server.pid}_{name}"
            self.regions[name] = shared_memory.create_shared_memory_region(name, key, self.size)
            self.addCleanup(shared_memory.destroy_shared_memory_region, self.regions[name])
            self.http.register_system_shared_memory(name, key, self.size)
            self.addCleanup(self.unregister, name)

    def unregister(self, name):
        """The region is in use until the request is given back, which is after its answer."""
        def done():
            try:
                self.http.unregister_system_shared_memory(name)
            except InferenceServerException as error:
                self.assertIn("in use", str(error))
                return False
            return True

        self.assertTrue(eventually(done))

    def ask(self, protocol, model, inputs, outputs, client=None, out="out"):
        """Inputs are NAME: (array, offset), outputs are NAME: (offset, bytes), in the region `out`."""
        library = PROTOCOLS[protocol]
        asked = []
        for name, (array, offset) in inputs.items():
            raw = array if array.dtype != object else serialize_byte_tensor(array)
            size = raw.nbytes if array.dtype != object else len(raw.item())
            shared_memory.set_shared_memory_region(self.regions["in"], [raw], offset)
            datatype = "FP32" if array.dtype != object else "BYTES"
            asked.append(library.InferInput(name, list(array.shape), datatype))
            asked[-1].set_shared_memory("in", size, offset)
        wanted = [library.InferRequestedOutput(name) for name in outputs]
        for one, (offset, size) in zip(wanted, outputs.values()):
            one.set_shared_memory(out, size, offset)
        return (client or self.clients[protocol]).infer(model, asked, outputs=wanted)

    def test_numbers(self):
        a, b = random_array("FP32", (3, 4)), random_array("FP32", (3, 4), seed=1)
        # Also where no element of the type would lie in memory of its own.
        for protocol, (first, second, out) in itertools.product(PROTOCOLS, ((0, 48, 0), (3, 101, 1), (64, 4099, 8191))):
            with self.subTest(protocol=protocol, offsets=(first, second, out)):
                shared_memory.set_shared_memory_region(self.regions["out"], [np.zeros(self.size, np.uint8)])
                self.ask(protocol, "add_sub", {"a": (a, first), "b": (b, second)},
                         {"sum": (out, 48), "difference": (out + 48, 48)})
                region = shared_memory.get_contents_as_numpy(self.regions["out"], np.uint8, [self.size])
                expected = np.zeros(self.size, np.uint8)
                expected[out:out + 96] = np.frombuffer((a + b).tobytes() + (a - b).tobytes(), np.uint8)
                # Nothing beside the regions is written.
                np.testing.assert_array_equal(region, expected)
                del region

    def test_outputs_over_inputs(self):
        a, b = random_array("FP32", (3, 4)), random_array("FP32", (3, 4), seed=1)
        places = ((0, 48), (48, 0), (16, 64), (24, 72))
        # More than once: shapes are known before a run only when one has shown them.
        for protocol, (first, second), _ in itertools.product(PROTOCOLS, places, range(3)):
            self.ask(protocol, "add_sub", {"a": (a, 0), "b": (b, 48)},
                     {"sum": (first, 48), "difference": (second, 48)}, out="in")
            for offset, expected in ((first, a + b), (second, a - b)):
                made = shared_memory.get_contents_as_numpy(self.regions["in"], np.float32, [3, 4], offset)
                np.testing.assert_array_equal(made, expected)
                del made

    def test_nothing_is_copied(self):
        a, b = random_array("FP32", (4, 4)), random_array("FP32", (4, 4), seed=1)

        def allocations(place, count=20):
            """How many buffers of the pool so many requests take, in memory that begins there."""
            before = self.settled_allocations()
            for _ in range(count):
                self.ask("http", "add_sub", {"a": (a, place), "b": (b, place + 512)},
                         {"sum": (place, a.nbytes), "difference": (place + 512, b.nbytes)})
            return self.settled_allocations() - before

        allocations(0, 1)
        self.assertEqual(allocations(64), 0)
        # No element can be used where it lies: two inputs are gathered, and two outputs copied.
        self.assertGreaterEqual(allocations(3), 4 * 20)
        # Nor are buffers needed for outputs whose shapes a run has not shown yet but for their own.
        a, b = a[:3], b[:3]
        self.assertLessEqual(allocations(64), 2)

    def settled_allocations(self):
        """Triton renews its metrics each second."""
        time.sleep(1.2)
        return pool(self.server)["weldpool_pool_allocations_total"]

    def test_strings(self):
        x = random_array("BYTES", (3, 5))
        for protocol, out in itertools.product(PROTOCOLS, (0, 7)):
            with self.subTest(protocol=protocol, offset=out):
                self.ask(protocol, "strings", {"x": (x, 5)}, {"y": (out, 40000)})
                made = shared_memory.get_contents_as_numpy(self.regions["out"], np.object_, [3, 10], out)
                np.testing.assert_array_equal(made, np.concatenate([x, x], axis=1))

    def test_requests_of_one_batch(self):
        xs = [random_array("FP32", (1, 5), seed=seed) for seed in range(2)]
        calls = [lambda client, x=x, at=at + 1: self.ask("http", "together", {"x": (x, at)}, {"y": (at, 40)}, client)
                 for at, x in zip((0, 1000), xs)]
        for result in in_threads(self.server, "http", calls):
            if isinstance(result, Exception):
                raise result
        self.assertEqual(self.statistics_of("together", 2, 1)["execution_count"], 1)
        for at, x in zip((0, 1000), xs):
            made = shared_memory.get_contents_as_numpy(self.regions["out"], np.float32, [1, 10], at + 1)
            np.testing.assert_array_equal(made, np.concatenate([x, x], axis=1))
            del made

    def test_a_region_that_is_too_small(self):
        a, b = random_array("FP32", (3, 4)), random_array("FP32", (3, 4), seed=1)
        for protocol in PROTOCOLS:
            with self.refused("output"):
                self.ask(protocol, "add_sub", {"a": (a, 0), "b": (b, 48)}, {"sum": (0, 40)})
            with self.refused("input"):
                self.ask(protocol, "add_sub", {"a": (a[:2], 0), "b": (b, 48)}, {"sum": (0, 48)})
            self.ask(protocol, "add_sub", {"a": (a, 0), "b": (b, 48)}, {"sum": (0, 48)})


class Configuration(Case):
    """What is completed from the model, and what is written."""

    strict = False
    options = ("--model-control-mode=explicit",)

    @classmethod
    def fill(cls, repository):
        pass

    def config(self, name, proto, text=None):
        models.write(self.repository, name, proto, text)
        self.http.load_model(name)
        return self.http.get_model_config(name)

    def test_a_model_that_can_be_batched(self):
        # As onnxruntime's backend does it.
        config = self.config("batched", models.add_sub(["n", 4]))
        self.assertEqual(config["max_batch_size"], 4)
        self.assertEqual(config["dynamic_batching"]["preferred_batch_size"], [4])
        self.assertEqual([(one["name"], one["data_type"], list(map(int, one["dims"]))) for one in config["input"]],
                         [("a", "TYPE_FP32", [4]), ("b", "TYPE_FP32", [4])])
        self.assertEqual([one["name"] for one in config["output"]], ["sum", "difference"])

    def test_a_model_that_cannot(self):
        config = self.config("fixed", models.add_sub([2, 4]))
        self.assertEqual(config["max_batch_size"], 0)
        self.assertNotIn("dynamic_batching", config)
        self.assertEqual([int(size) for size in config["input"][0]["dims"]], [2, 4])
        # One output of the two has no first dimension that requests decide.
        config = self.config("mixed", models.non_zero())
        self.assertEqual(config["max_batch_size"], 0)
        self.assertEqual([int(size) for size in config["output"][0]["dims"]], [1, -1])

    def test_every_type(self):
        for datatype in models.TYPES:
            config = self.config(f"type_{datatype}", models.identity(datatype, ["n", 2]))
            self.assertEqual(config["input"][0]["data_type"], "TYPE_" + ("STRING" if datatype == "BYTES" else datatype))

    def test_a_scalar_is_one_element(self):
        config = self.config("scalar", models.identity("FP32", []))
        self.assertEqual([int(size) for size in config["input"][0]["dims"]], [1])
        # An item of a batch may be one, too.
        config = self.config("items", models.identity("FP32", ["n"]))
        self.assertEqual(config["max_batch_size"], 4)
        self.assertEqual([int(size) for size in config["input"][0]["dims"]], [1])
        self.assertEqual(config["input"][0]["reshape"], {"shape": []})
        x = random_array("FP32", (3, 1))
        same(self, self.infer("http", "items", {"x": x}), {"y": x})

    def test_what_is_written_stays(self):
        text = ("max_batch_size: 7\ninput " + models.tensors(x=("FP32", [3]))
                + "output " + models.tensors(y=("FP32", [-1]))
                + "instance_group [ { count: 2 kind: KIND_CPU } ]\n")
        config = self.config("written", models.identity("FP32", ["n", "k"]), text)
        self.assertEqual(config["max_batch_size"], 7)
        # Nothing was left out, so nothing is added.
        self.assertNotIn("dynamic_batching", config)
        self.assertEqual(config["instance_group"][0]["count"], 2)
        self.assertEqual([int(size) for size in config["output"][0]["dims"]], [-1])
        config = self.config("size", models.identity("FP32", ["n", "k"]), "max_batch_size: 16\n")
        self.assertEqual(config["max_batch_size"], 16)
        self.assertEqual(config["dynamic_batching"]["preferred_batch_size"], [16])
        config = self.config("one", models.identity("FP32", ["n", "k"]), "max_batch_size: 1\n")
        self.assertEqual(config["max_batch_size"], 1)
        self.assertNotIn("dynamic_batching", config)

    def test_another_file(self):
        home = self.repository / "other_file" / "1"
        home.mkdir(parents=True)
        onnx.save(models.add(1), home / "other.onnx")
        config = self.config("other_file", None, 'default_model_filename: "other.onnx"\n')
        self.assertEqual(config["default_model_filename"], "other.onnx")
        x = random_array("FP32", (2, 3))
        same(self, self.infer("grpc", "other_file", {"x": x}), {"y": x + np.float32(1)})

    def test_parameters_of_the_engine(self):
        text = "".join(models.parameter(name, value) for name, value in (
            ("intra_op_thread_count", "1"), ("inter_op_thread_count", "1"), ("execution_mode", "0"),
            ("enable_mem_arena", "0"), ("enable_mem_pattern", "0"), ("memory.enable_memory_arena_shrinkage", "cpu:0"),
            ("session.use_device_allocator_for_initializers", "1")))
        text += 'optimization { graph { level: 1 } }\nmodel_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value: ' \
                "{ data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } } ]\n"
        self.config("parameters", models.add(2), text)
        x = random_array("FP32", (2, 3))
        same(self, self.infer("http", "parameters", {"x": x}), {"y": x + np.float32(2)})

    def test_threads_of_the_engine(self):
        def threads_of(count):
            """How many threads a model brings that is to use so many, that of its instance included."""
            before = running()
            self.config(f"threads_{count}", models.add(1), models.parameter("intra_op_thread_count", str(count)))
            return running() - before

        def running():
            """The threads of the server, once those of models before have ended."""
            counts = []
            while len(counts) < 4 or len(set(counts[-4:])) > 1:
                self.assertLess(len(counts), 100, counts)
                time.sleep(0.1)
                counts.append(len(list(pathlib.Path(f"/proc/{self.server.pid}/task").iterdir())))
            return counts[-1]

        # What Triton itself starts for a first model is no part of it.
        threads_of(1)
        self.assertEqual(threads_of(6) - threads_of(2), 4)

    def test_kinds(self):
        for kind, becomes in (("KIND_CPU", "KIND_CPU"), ("KIND_AUTO", "KIND_CPU"), ("KIND_MODEL", "KIND_MODEL")):
            name = kind.lower()
            config = self.config(name, models.slow(), f"instance_group [ {{ count: 3 kind: {kind} }} ]\n")
            self.assertEqual((config["instance_group"][0]["count"], config["instance_group"][0]["kind"]), (3, becomes))
            calls = [lambda client, name=name: infer(client, "http", name, {"rounds": np.array([50])})] * 3
            for made in in_threads(self.server, "http", calls):
                if isinstance(made, Exception):
                    raise made
                same(self, made, {"done": np.array([50])})
            # Three at once, each on its instance: on one, all together would wait as long as they run.
            stats = self.statistics_of(name, 3, 3)["inference_stats"]
            self.assertLess(stats["queue"]["ns"], stats["compute_infer"]["ns"] / 2)
        # Several groups in one model.
        text = "instance_group [ { count: 1 kind: KIND_CPU }, { count: 2 kind: KIND_MODEL } ]\n"
        self.assertEqual(len(self.config("groups", models.add(1), text)["instance_group"]), 2)

    def test_a_gpu_is_refused(self):
        models.write(self.repository, "placed", models.add(1), "instance_group [ { count: 1 kind: KIND_GPU } ]\n")
        # On a machine without GPUs Triton says so before it asks the backend, whose own words are in its unit tests.
        with self.refused("no gpus are available"):
            self.http.load_model("placed")
        self.assertFalse(self.http.is_model_ready("placed"))


class ConfigurationOff(Case):
    """Triton may be told to complete nothing, and other defaults."""

    strict = False
    options = ("--model-control-mode=explicit", "--disable-auto-complete-config")

    @classmethod
    def fill(cls, repository):
        models.write(repository, "nothing", models.add(1))
        models.write(repository, "all", models.add(1), "max_batch_size: 2\ninput " + models.tensors(x=("FP32", [3]))
                     + "output " + models.tensors(y=("FP32", [3])))

    def test_all_must_be_written(self):
        with self.refused("nothing"):
            self.http.load_model("nothing")
        self.http.load_model("all")
        x = random_array("FP32", (2, 3))
        same(self, self.infer("http", "all", {"x": x}), {"y": x + np.float32(1)})


class Statistics(Case):
    """Counts, times and figures of the pool."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.trace = pathlib.Path(folder.name) / "trace.json"
        cls.options = ("--trace-config", f"triton,file={cls.trace}", "--trace-config", "level=TIMESTAMPS",
                       "--trace-config", "rate=1", "--trace-config", "triton,log-frequency=1",
                       "--backend-config=metal_mps,max-pool-size=64M", "--backend-config=default-max-batch-size=6",
                       "--backend-config=metal_mps,intra_op_thread_count=1")
        super().setUpClass()

    @classmethod
    def fill(cls, repository):
        models.write(repository, "slow", models.slow())
        models.write(repository, "add", models.add(1))
        models.write(repository, "batched", models.doubled("FP32", ["n", "k"]), models.batching(4, 3000))

    def test_counts_and_times(self):
        began = time.monotonic_ns()
        for number in range(3):
            self.infer("http", "slow", {"rounds": np.array([10])})
            # It is counted after it is answered: the next one begins when all of its times are over.
            statistics = self.statistics_of("slow", number + 1, number + 1)
        elapsed = time.monotonic_ns() - began
        for _ in range(2):
            with self.refused("nothing"):
                self.infer("http", "slow", {"rounds": np.array([1])}, ["nothing"])
        self.assertEqual(statistics["execution_count"], 3)
        stats = statistics["inference_stats"]
        self.assertEqual(stats["success"]["count"], 3)
        parts = [stats[name] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
        for part in parts:
            self.assertEqual(part["count"], 3)
            self.assertLess(part["ns"], elapsed)
        self.assertGreater(stats["compute_infer"]["ns"], 1_000_000)
        self.assertGreater(stats["compute_input"]["ns"], 0)
        self.assertGreater(stats["compute_output"]["ns"], 0)
        self.assertLessEqual(sum(part["ns"] for part in parts), stats["success"]["ns"])
        self.assertLess(stats["success"]["ns"], elapsed)
        [batch] = statistics["batch_stats"]
        self.assertEqual(batch["batch_size"], 1)
        for name in ("compute_input", "compute_infer", "compute_output"):
            self.assertEqual(batch[name]["count"], 3)
            self.assertGreater(batch[name]["ns"], 0)
            self.assertLess(batch[name]["ns"], elapsed)

    def test_times_of_a_batch_are_in_order(self):
        before = self.statistics("batched")
        began = time.monotonic_ns()
        x = random_array("FP32", (1, 5))
        for _ in range(3):
            calls = [lambda client: infer(client, "http", "batched", {"x": x})] * 4
            for made in in_threads(self.server, "http", calls):
                same(self, made, {"y": np.concatenate([x, x], axis=1)})
        elapsed = time.monotonic_ns() - began
        statistics = self.statistics_of("batched", before["inference_count"] + 12, before["execution_count"] + 3)
        self.assertEqual(statistics["execution_count"], before["execution_count"] + 3)
        for name, one in statistics["inference_stats"].items():
            grown = one["ns"] - before["inference_stats"].get(name, {"ns": 0})["ns"]
            self.assertLess(grown, 12 * elapsed, name)
        [batch] = statistics["batch_stats"]
        self.assertEqual((batch["batch_size"], batch["compute_infer"]["count"]), (4, statistics["execution_count"]))
        for name in ("compute_input", "compute_infer", "compute_output"):
            self.assertGreater(batch[name]["ns"], 0)
            self.assertLess(batch[name]["ns"], 10**11)

    def test_trace(self):
        order = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START",
                 "COMPUTE_END", "REQUEST_END"]
        for protocol in PROTOCOLS:
            self.infer(protocol, "add", {"x": random_array("FP32", (1, 3))})

        def traced():
            files = list(self.trace.parent.glob("trace.json*"))
            found = {}
            for event in itertools.chain.from_iterable(json.loads(file.read_text()) for file in files):
                one = found.setdefault(event["id"], {})
                one["model"] = event.get("model_name", one.get("model"))
                one.update((stamp["name"], stamp["ns"]) for stamp in event.get("timestamps", ()))
            return [one for one in found.values() if one["model"] == "add"]

        self.assertTrue(eventually(lambda: len([one for one in traced() if "REQUEST_END" in one]) >= 2))
        for one in traced():
            times = [one[name] for name in order]
            self.assertEqual(times, sorted(times))

    def test_metrics_of_the_pool(self):
        figures = pool(self.server)
        self.assertEqual(figures["weldpool_pool_limit_bytes"], 64 << 20)
        self.assertGreaterEqual(figures["weldpool_pool_reserved_peak_bytes"], figures["weldpool_pool_reserved_bytes"])
        self.assertGreaterEqual(figures["weldpool_pool_live_peak_bytes"], figures["weldpool_pool_live_bytes"])
        self.assertIn('pool="metal_mps"', self.server.metric_text())
        before = figures["weldpool_pool_allocations_total"]
        for _ in range(2):
            calls = [lambda client: infer(client, "http", "batched", {"x": random_array("FP32", (1, 5000))})] * 4
            in_threads(self.server, "http", calls)
        self.assertTrue(eventually(lambda: pool(self.server)["weldpool_pool_allocations_total"] > before))
        figures = pool(self.server)
        self.assertGreater(figures["weldpool_pool_reserved_peak_bytes"], 0)
        self.assertGreater(figures["weldpool_pool_live_peak_bytes"], 0)
        for name in ("weldpool_pool_hits_total", "weldpool_pool_failures_total", "weldpool_pool_driver_calls_total"):
            self.assertIn(name, pool(self.server))

    def test_tritons_own_metrics(self):
        self.infer("grpc", "add", {"x": random_array("FP32", (1, 3))})
        counted = r'nv_inference_request_success\{model="add",version="1"\} [1-9]'
        self.assertTrue(eventually(lambda: re.search(counted, self.server.metric_text())))

    def test_default_of_the_command_line(self):
        self.assertEqual(self.http.get_model_config("add")["max_batch_size"], 6)


class Settings(unittest.TestCase):
    """Variables and settings of the backend as a whole."""

    def start(self, *options, environment=None):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.repository = pathlib.Path(folder.name)
        models.write(self.repository, "add", models.add(1), "instance_group [ { count: 3 kind: KIND_MODEL } ]\n")
        server = Triton(self.repository, "--model-control-mode=explicit", *options, environment=environment, strict=False)
        self.addCleanup(server.discard)
        self.addCleanup(server.stop)
        client = connect_one(server, "http")
        self.addCleanup(client.close)
        return server, client

    def test_wrong_values_fail_the_load_and_are_named(self):
        for name, value in (("MPS_VERBOSE", "loud"), ("MPS_MAX_POOL_SIZE", "much"), ("MPS_MAX_BUFFER_AGE", "0")):
            with self.subTest(name):
                server, client = self.start(environment={name: value})
                with self.assertRaisesRegex(InferenceServerException, f"{name} is '{value}'"):
                    client.load_model("add")
                self.assertIn(f"{name} is '{value}'", server.log())
                self.assertTrue(client.is_server_live())

    def test_right_values(self):
        environment = {"MPS_VERBOSE": "1", "MPS_MAX_POOL_SIZE": "48M", "MPS_MAX_BUFFER_AGE": "1"}
        server, client = self.start(environment=environment)
        client.load_model("add")
        self.assertEqual(pool(server)["weldpool_pool_limit_bytes"], 48 << 20)
        log = server.log()
        self.assertIn("idle memory goes back after 1 s", log)
        # Lines for debugging are information now, and there is one for each instance.
        self.assertEqual(len(re.findall(r"\nI\d+ .*instance 'add\S*' is ready", log)), 3)
        x = random_array("FP32", (2, 3))
        same(self, infer(client, "http", "add", {"x": x}), {"y": x + np.float32(1)})

    def test_a_wrong_value_of_the_engines_parameters(self):
        server, client = self.start("--backend-config=metal_mps,intra_op_thread_count=many")
        with self.assertRaisesRegex(InferenceServerException, "--backend-config=metal_mps.*intra_op_thread_count"):
            client.load_model("add")
        self.assertTrue(client.is_server_live())

    def test_weights_that_do_not_fit(self):
        server, client = self.start(environment={"MPS_MAX_POOL_SIZE": "4M"})
        models.write(self.repository, "matrix", models.weights(16 << 20))
        with self.assertRaisesRegex(InferenceServerException, "memory|limit"):
            client.load_model("matrix")
        self.assertFalse(client.is_model_ready("matrix"))
        client.load_model("add")
        x = random_array("FP32", (2, 3))
        same(self, infer(client, "http", "add", {"x": x}), {"y": x + np.float32(1)})

    def test_the_command_line_outranks_variables(self):
        server, client = self.start(
            "--backend-config=metal_mps,max-pool-size=32M", "--backend-config=metal_mps,max-buffer-age=77",
            environment={"MPS_MAX_POOL_SIZE": "wrong", "MPS_VERBOSE": "0"})
        client.load_model("add")
        self.assertEqual(pool(server)["weldpool_pool_limit_bytes"], 32 << 20)
        self.assertIn("idle memory goes back after 77 s", server.log())
        self.assertNotIn("metal_mps: instance", server.log())

    def test_a_setting_that_does_not_exist(self):
        server, client = self.start("--backend-config=metal_mps,max-pol-size=32M")
        with self.assertRaisesRegex(InferenceServerException, "max-pol-size=32M: there is no such setting"):
            client.load_model("add")
        self.assertTrue(client.is_server_live())


if __name__ == "__main__":
    unittest.main()
