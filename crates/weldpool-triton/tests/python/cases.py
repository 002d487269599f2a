"""What the tests share: a case with a server of its own, both clients as one, and onnxruntime as the reference."""

import ctypes
import itertools
import os
import pathlib
import tempfile
import threading
import time
import unittest

import numpy as np
import onnxruntime
import tritonclient.grpc
import tritonclient.http
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

import models
from triton import Triton

PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}

OCR_MODELS = os.environ.get("WELDPOOL_OCR_MODELS")


class Case(unittest.TestCase):
    """Tests with one server, started once."""

    options = ()
    environment = {}
    strict = True
    # The exit status of a server that was told to stop.
    ends_with = 0

    @classmethod
    def fill(cls, repository):
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.repository = pathlib.Path(folder.name)
        cls.fill(cls.repository)
        cls.server = Triton(cls.repository, *cls.options, environment=cls.environment, strict=cls.strict)
        cls.addClassCleanup(cls.server.discard)
        cls.addClassCleanup(cls.stop)
        cls.clients = connect(cls.server)
        for client in cls.clients.values():
            cls.addClassCleanup(client.close)
        cls.http, cls.grpc = cls.clients["http"], cls.clients["grpc"]

    @classmethod
    def stop(cls):
        status = cls.server.stop()
        if status != cls.ends_with:
            raise AssertionError(f"the server ended with status {status}:\n{cls.server.log()[-4000:]}")

    def infer(self, protocol, model, arrays, outputs=None, **options):
        return infer(self.clients[protocol], protocol, model, arrays, outputs, **options)

    def statistics(self, model, version=""):
        """Those of a version of a model; of all versions together there is no sum."""
        found = self.http.get_inference_statistics(model, version)["model_stats"]
        self.assertEqual(len(found), 1, found)
        return found[0]

    def statistics_of(self, model, inferences, executions=0):
        """Those of a model that has made so many; the last of them are counted after they are answered."""
        def counted():
            found = self.statistics(model)
            return found["inference_count"] >= inferences and found["execution_count"] >= executions
        eventually(counted)
        found = self.statistics(model)
        self.assertEqual(found["inference_count"], inferences, found)
        return found

    def lives(self, model="witness"):
        """The server serves another model right."""
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        for protocol in PROTOCOLS:
            same(self, self.infer(protocol, model, {"x": x}), {"y": x})

    def refused(self, *parts):
        return Refused(self, parts)


class Refused:
    """Expects an error of the server that says all of this, in any case of letters."""

    def __init__(self, case, parts):
        self.case, self.parts = case, parts

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is None:
            self.case.fail(f"no error, though one about {self.parts} was expected")
        if not issubclass(kind, InferenceServerException):
            return False
        self.error = error
        for part in self.parts:
            self.case.assertIn(part.lower(), str(error).lower())
        return True


def connect(server):
    """A client of each protocol. A client is for one thread."""
    return {
        "http": tritonclient.http.InferenceServerClient(server.http, network_timeout=60, connection_timeout=60),
        "grpc": tritonclient.grpc.InferenceServerClient(server.grpc),
    }


def tensors(protocol, arrays, binary=True):
    made = []
    for name, array in arrays.items():
        array = np.asarray(array)
        one = PROTOCOLS[protocol].InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        if protocol == "http":
            one.set_data_from_numpy(array, binary_data=binary)
        else:
            one.set_data_from_numpy(array)
        made.append(one)
    return made


def wanted(protocol, names, binary=True):
    if names is None:
        return None
    options = {"binary_data": binary} if protocol == "http" else {}
    return [PROTOCOLS[protocol].InferRequestedOutput(name, **options) for name in names]


def infer(client, protocol, model, arrays, outputs=None, binary=True, **options):
    """The outputs by name."""
    inputs = tensors(protocol, arrays, binary)
    result = client.infer(model, inputs, outputs=wanted(protocol, outputs, binary), **options)
    if protocol == "http":
        names = [output["name"] for output in result.get_response()["outputs"]]
    else:
        names = [output.name for output in result.get_response().outputs]
    return {name: result.as_numpy(name) for name in names}


class Reference:
    """Runs a model in this process."""

    def __init__(self, proto):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        source = proto if isinstance(proto, (str, bytes)) else proto.SerializeToString()
        self.session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, arrays):
        """The outputs by name. With BF16, for which onnxruntime's Python has no type, all are of that type."""
        if any(np_to_triton_dtype(array.dtype) == "BF16" for array in arrays.values()):
            values = {name: bf16_value(array) for name, array in arrays.items()}
            made = self.session.run_with_ort_values(self.outputs, values)
            return {name: bf16_array(value) for name, value in zip(self.outputs, made)}
        # Its Python takes strings as text.
        arrays = {name: decoded(array) if array.dtype == object else array for name, array in arrays.items()}
        return dict(zip(self.outputs, self.session.run(self.outputs, arrays)))


def decoded(array):
    made = np.empty(array.size, dtype=object)
    made[:] = [one.decode() if isinstance(one, bytes) else one for one in array.reshape(-1)]
    return made.reshape(array.shape)


def bf16_value(array):
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), models.TYPES["BF16"])


def same(case, made, expected, tolerance=0.0, message=None):
    """The same outputs: names, types, shapes, elements; bit by bit without a tolerance."""
    case.assertEqual(sorted(made), sorted(expected), message)
    for name, array in expected.items():
        array = strings(np.asarray(array))
        ours = strings(made[name])
        case.assertEqual(ours.dtype, array.dtype, (name, message))
        # A scalar of a model is one element in the protocol.
        shape = array.shape or (1,)
        case.assertEqual(ours.shape, shape, (name, message))
        if not tolerance or array.dtype.kind != "f":
            elements = (lambda side: side.tolist()) if array.dtype == object else (lambda side: side.tobytes())
            case.assertEqual(elements(ours), elements(array.reshape(shape)), (name, message))
        else:
            np.testing.assert_allclose(ours, array.reshape(shape), rtol=tolerance, atol=tolerance / 10, err_msg=name)


def strings(array):
    """Strings as bytes, however they came."""
    if array.dtype.kind not in "OUS":
        return array
    encoded = [one.encode() if isinstance(one, str) else bytes(one) for one in array.reshape(-1)]
    made = np.empty(len(encoded), dtype=object)
    made[:] = encoded
    return made.reshape(array.shape)


def random_array(datatype, shape, seed=0):
    """Elements over the whole range of a type."""
    random = np.random.default_rng(seed)
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if datatype == "BYTES":
        words = [b"", b"a", "h\u00e9 \U0001f600".encode(), b"x" * 1000]
        made = np.empty(int(np.prod(shape)), dtype=object)
        made[:] = [words[int(index)] for index in random.integers(0, len(words), made.size)]
        return made.reshape(shape)
    if datatype in ("FP16", "FP32", "FP64", "BF16"):
        return random.standard_normal(shape).astype(triton_to_np_dtype(datatype))
    limits = np.iinfo(triton_to_np_dtype(datatype))
    return random.integers(limits.min, limits.max, shape, dtype=limits.dtype, endpoint=True)


def bf16_array(value):
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, triton_to_np_dtype("BF16")).reshape(value.shape())


def in_threads(server, protocol, calls, seconds=60):
    """Makes calls at once, each in its thread with its client; what each returned or raised, in order."""
    results = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def work(index, call):
        client = connect_one(server, protocol)
        try:
            start.wait(seconds)
            results[index] = call(client)
        except Exception as error:  # It is for the caller to judge.
            results[index] = error
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            raise AssertionError(f"a call took more than {seconds} s")
    return results


def connect_one(server, protocol):
    if protocol == "http":
        return tritonclient.http.InferenceServerClient(server.http, network_timeout=60, connection_timeout=60)
    return tritonclient.grpc.InferenceServerClient(server.grpc)


def pool(server):
    """The pool's figures among Triton's metrics, by name; they are renewed each second."""
    families = text_string_to_metric_families(server.metric_text())
    samples = itertools.chain.from_iterable(family.samples for family in families)
    return {sample.name: sample.value for sample in samples if sample.name.startswith("weldpool_")}


def eventually(condition, seconds=10.0):
    """Waits until a condition holds and returns whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
