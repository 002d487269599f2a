#!/usr/bin/env python3
"""Reads the text in a picture with three models that `weldpool serve` serves, or a real Triton with `--triton`.

Detection finds the lines, direction tells which are upside down, recognition reads them; the picture and everything in
between travel as binary tensors through tritonclient. Prints the text beside what was drawn, latencies, and what the
server's memory pool did meanwhile. Ends with status 1 when the text is wrong.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from geventhttpclient.response import HTTPConnectionClosed

import dashboard
import detection
import lines
import picture
import repository
from console import Console
from server import Server, ServerError
from triton import Triton


class Pipeline:
    """The three models behind one HTTP client, and how long each request took."""

    def __init__(self, client, labels):
        self._client = client
        self._alphabet = lines.alphabet(labels)
        self._signatures = {name: client.get_model_metadata(name) for name, _, _ in repository.MODELS}
        self._batch_max = {name: client.get_model_config(name)["max_batch_size"] for name in self._signatures}
        self.seconds = {name: [] for name in self._signatures}

    def read(self, image):
        """Returns the lines of text in the picture, from top to bottom."""
        probability = self._infer(detection.MODEL, detection.preprocess(image))
        boxes = detection.boxes(probability[0, 0], image.size)
        crops = [image.crop((box.left, box.top, box.right, box.bottom)) for box in boxes]
        if not crops:
            return []
        turned = lines.upside_down(self._infer(lines.DIRECTION_MODEL, lines.direction_batch(crops)))
        crops = [crop.rotate(180) if turn else crop for crop, turn in zip(crops, turned)]
        scores = self._infer(lines.RECOGNITION_MODEL, lines.recognition_batch(crops))
        return lines.read(scores, self._alphabet)

    def _infer(self, model, batch):
        # A model that batches takes at most max_batch_size rows per request; 0 means it does not limit them.
        rows = self._batch_max[model] or len(batch)
        parts = [self._request(model, batch[start : start + rows]) for start in range(0, len(batch), rows)]
        return np.concatenate(parts)

    def _request(self, model, batch):
        signature = self._signatures[model]
        tensor = triton.InferInput(signature["inputs"][0]["name"], batch.shape, "FP32")
        tensor.set_data_from_numpy(batch, binary_data=True)
        output = signature["outputs"][0]["name"]
        started = time.perf_counter()
        answer = self._client.infer(model, [tensor], outputs=[triton.InferRequestedOutput(output, binary_data=True)])
        self.seconds[model].append(time.perf_counter() - started)
        return answer.as_numpy(output)


def compare(read, expected):
    """Returns the table of read and drawn text, and one sentence per difference."""
    rows, differences = [], []
    for number in range(max(len(read), len(expected))):
        got = read[number] if number < len(read) else None
        want = expected[number] if number < len(expected) else None
        rows.append(f"  {'ok   ' if got == want else 'WRONG'} {got or '-':<40} | {want or '-'}")
        if got != want:
            differences.append(f"line {number + 1}: read {got!r}, drawn {want!r}")
    return [f"        {'read':<40} | drawn", *rows], differences


def latencies(seconds, statistics_of):
    """Returns the table of latencies: seen by the client, and the model's own mean as the server counts it."""
    out = [f"  {'model':<18} {'requests':>8} {'p50':>9} {'p90':>9}   in the model (mean)"]
    for model, values in seconds.items():
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        compute = statistics_of(model)["model_stats"][0]["inference_stats"]["compute_infer"]
        inside = compute["ns"] / max(1, compute["count"]) / 1e6
        p50, p90 = deciles[4] * 1e3, deciles[8] * 1e3
        out.append(f"  {model:<18} {len(values):>8} {p50:>6.2f} ms {p90:>6.2f} ms   {inside:.2f} ms")
    return out


def start(arguments, models):
    """Starts the server that was asked for."""
    log = arguments.work / "server.log"
    if arguments.triton:
        return Triton(arguments.triton, arguments.backends, models, log)
    return Server(arguments.server, models, log)


def run(arguments):
    console = Console(steps=5)
    arguments.work.mkdir(parents=True, exist_ok=True)

    console.step("draw the picture, lay out the model repository")
    image = picture.draw()
    image.save(arguments.work / "input.png")
    models = arguments.work / "repository"
    repository.lay_out(arguments.models, models, "metal_mps" if arguments.triton else None)

    console.step("start the server")
    with start(arguments, models) as server:
        server.wait_ready(console.detail)
        client = triton.InferenceServerClient(server.http)

        console.step("read the picture")
        pipeline = Pipeline(client, repository.labels(arguments.models))
        text = pipeline.read(image)
        table, differences = compare(text, [line.text for line in picture.LINES])

        console.step(f"time it, {arguments.repeats} passes")
        before = dashboard.fetch(server.metrics)
        pipeline.seconds = {model: [] for model in pipeline.seconds}
        for number in range(arguments.repeats):
            if pipeline.read(image) != text:
                differences.append(f"pass {number + 2} read another text than the first")
            console.count(number + 1, arguments.repeats)
        timing = latencies(pipeline.seconds, client.get_inference_statistics)
        pools = dashboard.fetch(server.metrics)
        if not pools:
            raise ServerError(f"the server reports no {dashboard.PREFIX}* on /metrics")
        client.close()

        console.step("stop the server")
        server.stop()
    console.done()

    print(f"\nText in {arguments.work / 'input.png'}\n", *table, sep="\n")
    print("\nLatency\n", *timing, sep="\n")
    print("\nMemory\n", *dashboard.render(pools, before), sep="\n")
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    servers = parser.add_mutually_exclusive_group(required=True)
    servers.add_argument("--server", type=Path, help="the program weldpool")
    servers.add_argument("--triton", type=Path, help="the program tritonserver; needs --backends")
    parser.add_argument("--backends", type=Path, help="folder with metal_mps/libtriton_metal_mps.so")
    parser.add_argument("--models", type=Path, required=True, help="folder with det.onnx, cls.onnx, rec.onnx")
    parser.add_argument("--work", type=Path, required=True, help="folder for picture, repository and server log")
    parser.add_argument("--repeats", type=int, default=10, help="timed passes, at least 2 (default 10)")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be at least 2")
    if arguments.triton and not arguments.backends:
        parser.error("--triton needs --backends")
    try:
        differences = run(arguments)
    except (ServerError, triton.InferenceServerException, HTTPConnectionClosed, OSError) as error:
        sys.exit(f"\ndemo: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo: interrupted")
    if differences:
        sys.exit("\ndemo: the text is wrong\n  " + "\n  ".join(differences))
    print("\nThe text is right.")


if __name__ == "__main__":
    main()
