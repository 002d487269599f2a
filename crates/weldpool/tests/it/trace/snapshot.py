"""Makes and checks PyTorch memory snapshots with nothing but Python's standard library.

    snapshot.py make FOLDER    writes protocol-2.pickle to protocol-5.pickle, and odd ones
    snapshot.py check FILE     loads a snapshot, proves that it is one, prints its figures as JSON
"""

import collections
import json
import os
import pickle
import pickletools
import sys

FRAMES = [{"name": "forward", "filename": "model.py", "line": 12}]


def entry(action, addr=0, size=0, stream=0, time_us=0, **more):
    return {"action": action, "addr": addr, "size": size, "stream": stream, "time_us": time_us, "frames": FRAMES, **more}


def snapshot():
    base = 0x7F0000000000
    start = 1_700_000_000_000_000
    first = [
        entry("segment_alloc", base, 2 << 20, time_us=start),
        entry("free_requested", base + 0x80000, 512, time_us=start + 1),  # allocated before the recording
        entry("free_completed", base + 0x80000, 512, time_us=start + 1),
        entry("alloc", base, 1000, stream=0, time_us=start + 2),
        entry("alloc", base + 1024, 300, stream=0x55AA0000, time_us=start + 3),
        entry("free_requested", base, 1000, time_us=start + 4),
        entry("segment_map", base + (2 << 20), 20 << 20, time_us=start + 5),
        entry("oom", 0, 1 << 40, time_us=start + 6, device_free=123),
        entry("free_completed", base, 1000, time_us=start + 7),
        entry("alloc", base, 2000, time_us=start + 8),
        entry("free_completed", base + 0x90000, 700, time_us=start + 9),  # asked for before the recording
        entry("snapshot", time_us=start + 10),
    ]
    second = [entry("alloc", base, 64, time_us=start)]
    blocks = [
        {"address": base, "size": 2048, "requested_size": 2000, "state": "active_allocated", "frames": FRAMES},
        {"address": base + 0x100000, "size": 4096, "requested_size": 4000, "state": "active_allocated", "frames": []},
        {"address": base + 0x101000, "size": 4096, "requested_size": 0, "state": "inactive", "frames": []},
        {"address": base + 0x102000, "size": 512, "requested_size": 5, "state": "active_pending_free", "frames": []},
    ]
    segment = {
        "device": 0, "address": base, "total_size": 2 << 20, "allocated_size": 6144, "active_size": 6656,
        "requested_size": 6000, "stream": 9, "segment_type": "small", "segment_pool_id": (0, 0),
        "is_expandable": False, "frames": [], "blocks": blocks,
    }
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "garbage_collection_threshold": 0.0,
                "roundup_power2_divisions": {"1": 0}, "expandable_segments": False}
    return {"segments": [segment], "device_traces": [first, second], "allocator_settings": settings}


def dump(value, folder, name, protocol):
    with open(os.path.join(folder, name), "wb") as file:
        pickle.dump(value, file, protocol=protocol)


def make(folder):
    for protocol in range(2, 6):
        dump(snapshot(), folder, f"protocol-{protocol}.pickle", protocol)
    whole = snapshot()
    # Objects that only running code can make, beside what a reader needs; then an old form without
    # times and addresses of blocks; then the oldest, a bare list of segments; then no snapshot.
    odd = dict(whole, extra=collections.OrderedDict(a=1), kinds={"alloc"}, raw=b"bytes", huge=1 << 200)
    dump(odd, folder, "odd.pickle", 4)
    old = snapshot()
    for one in old["device_traces"][0]:
        del one["time_us"]
    dump(old, folder, "old.pickle", 2)
    bare = whole["segments"]
    for block in bare[0]["blocks"]:
        del block["address"], block["requested_size"]
    dump(bare, folder, "bare.pickle", 2)
    dump({"weights": [1, 2, 3]}, folder, "other.pickle", 4)


def check(path):
    with open(path, "rb") as file:
        data = file.read()
    value = pickle.loads(data)
    assert set(value) == {"segments", "device_traces", "allocator_settings"}, set(value)
    active = {}
    for segment in value["segments"]:
        at = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == at, "the blocks of a segment follow each other"
            assert isinstance(block["frames"], list)
            at += block["size"]
            if block["state"] == "active_allocated":
                active[block["address"]] = block["requested_size"]
            else:
                assert block["state"] == "inactive"
        assert at == segment["address"] + segment["total_size"]
        assert segment["segment_type"] in ("large", "small") and segment["stream"] >= 0
    live, peak, ends = {}, 0, {}
    for one in value["device_traces"][0]:
        assert isinstance(one["frames"], list) and one["stream"] >= 0 and one["time_us"] >= 0
        if one["action"] == "alloc":
            assert one["addr"] not in live
            live[one["addr"]] = one["size"]
            peak = max(peak, sum(live.values())) if len(live) < 4096 else peak
        elif one["action"] == "free_completed":
            assert live.pop(one["addr"]) == one["size"]
        else:
            assert one["action"] in ("free_requested", "segment_alloc"), one["action"]
    assert live == active, "what the events leave live is what the segments hold"
    opcodes = sorted({opcode.name for opcode, _, _ in pickletools.genops(data)})
    actions = collections.Counter(one["action"] for one in value["device_traces"][0])
    print(json.dumps({"opcodes": opcodes, "actions": actions, "peak": peak, "live": len(live)}))


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](sys.argv[2])
