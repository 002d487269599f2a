"""Records what a Triton answers to the requests in tests/data/triton-http; see the README there."""

import argparse
import base64
import json
import pathlib
import sys
import time

import exchange
import server as servers

GROUPS = ["server", "model", "other", "infer_json_good", "infer_json_bad", "infer_binary", "classification", "encoding",
          "repository"]
HEADERS = ["content-type", "inference-header-content-length", "content-encoding", "accept-encoding"]
ANSWER_SECONDS = 6


def write_repository(folder, backend):
    for model in servers.recorded_models():
        home = folder / model["name"]
        for version in model["versions"]:
            (home / version).mkdir(parents=True)
        (home / "config.pbtxt").write_text(servers.config(model, backend) + "instance_group { kind: KIND_CPU }\n")
        if "labels" in model:
            (home / "labels.txt").write_text("\n".join(model["labels"]) + "\n")


def recorded_body(body):
    try:
        text = body.decode()
        if "\0" not in text:
            return {"text": text}
    except UnicodeDecodeError:
        pass
    return {"base64": base64.b64encode(body).decode()}


def is_alive(address):
    try:
        return exchange.send(address, "GET", "/v2/health/live", seconds=3).status == 200
    except OSError:
        return False


def record(address, group, case):
    """Returns what is to be recorded, and whether Triton is still there."""
    request = case["request"]
    try:
        answer = exchange.send(address, request["method"], request["path"], request.get("headers"),
                               exchange.body_of(request.get("body")), ANSWER_SECONDS, strict=False)
    except TimeoutError:
        return {"failure": f"no answer within {ANSWER_SECONDS} s"}, is_alive(address)
    except OSError:
        return {"failure": "crash"}, is_alive(address)
    made = {"status": answer.status}
    if headers := {name: answer.headers[name] for name in HEADERS if name in answer.headers}:
        made["headers"] = headers
    lists_all_models = group == "repository" and case["name"].startswith("index") and answer.status == 200
    if answer.body and not lists_all_models:
        made["body"] = recorded_body(answer.body)
    # A model is unloaded some time after the answer.
    time.sleep(0.5 if request["path"].endswith("unload") else 0.01)
    return made, is_alive(address)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-repository", type=pathlib.Path, metavar="DIR", help="only write the models' folders")
    parser.add_argument("--backend", default="identity", help="the backend in their configuration")
    parser.add_argument("--address", metavar="HOST:PORT", help="a running Triton")
    parser.add_argument("--from", dest="start", metavar="GROUP:NAME", help="begin after this case")
    arguments = parser.parse_args()
    if arguments.write_repository:
        write_repository(arguments.write_repository, arguments.backend)
        return
    if not arguments.address:
        parser.error("one of --write-repository and --address is needed")
    skipping = arguments.start is not None
    for group in GROUPS:
        path = servers.DATA / f"{group}.json"
        cases = json.loads(path.read_text())
        alive = True
        for case in cases:
            label = f"{group}:{case['name']}"
            if skipping or not alive:
                skipping = skipping and label != arguments.start
                continue
            case["triton"], alive = record(arguments.address, group, case)
            if not alive:
                stopped = label
        lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases]
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        if not alive:
            sys.exit(f"Triton is gone after {stopped}; start it again and go on with --from '{stopped}'")


if __name__ == "__main__":
    main()
