"""Trains and runs two small models on PyTorch's allocator or on Weldpool's, and prints what came out.

python torch_train.py native|expandable|LIBRARY

One JSON object: losses, a checksum of what inference gives, the median time of a step, and the peaks.
"""

import ctypes
import json
import os
import sys
import time

which = sys.argv[1]
if which == "expandable":
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

library = None
if which not in ("native", "expandable"):
    library = ctypes.CDLL(which)
    allocator = torch.cuda.memory.CUDAPluggableAllocator(
        which, "weldpool_torch_malloc", "weldpool_torch_free"
    )
    record = ctypes.cast(library.weldpool_torch_record_stream, ctypes.c_void_p).value
    allocator.allocator().set_record_stream_fn(record)
    torch.cuda.memory.change_current_allocator(allocator)


class Stats(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "live",
            "live_peak",
            "reserved",
            "reserved_peak",
            "allocations",
            "driver_calls",
        )
    ]


def peaks():
    if library is None:
        return {
            "live_peak": torch.cuda.memory_stats()["requested_bytes.all.peak"],
            "reserved_peak": torch.cuda.max_memory_reserved(),
        }
    stats = Stats()
    assert library.weldpool_torch_stats(0, ctypes.byref(stats)) == 0
    return {name: getattr(stats, name) for name, _ in Stats._fields_}


torch.manual_seed(1)
torch.use_deterministic_algorithms(True)
torch.backends.cudnn.benchmark = False

# Sequences of many lengths, so that sizes differ from step to step.
vocabulary, width = 4096, 512
layer = torch.nn.TransformerEncoderLayer(width, 8, 2048, batch_first=True, dropout=0.0)
model = torch.nn.Sequential(
    torch.nn.Embedding(vocabulary, width),
    torch.nn.TransformerEncoder(layer, 6),
    torch.nn.Linear(width, vocabulary),
).cuda()
convolutions = torch.nn.Sequential(
    *[
        block
        for i in range(6)
        for block in (
            torch.nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1),
            torch.nn.BatchNorm2d(64),
            torch.nn.ReLU(),
        )
    ],
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(64, 100),
).cuda()
parameters = list(model.parameters()) + list(convolutions.parameters())
optimizer = torch.optim.AdamW(parameters, lr=1e-4)
side = torch.cuda.Stream()
losses, times = [], []
for step in range(60):
    start = time.perf_counter()
    length = 64 + (step * 37) % 448
    tokens = torch.randint(vocabulary, (16, length + 1), device="cuda")
    logits = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    edge = 96 + (step * 24) % 128
    images = torch.randn(16, 3, edge, edge, device="cuda")
    # A second stream uses what the first allocated.
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        flipped = images.flip(3)
    images.record_stream(side)
    torch.cuda.current_stream().wait_stream(side)
    flipped.record_stream(torch.cuda.current_stream())
    classes = convolutions(images + flipped)
    loss = loss + torch.nn.functional.cross_entropy(
        classes, torch.randint(100, (16,), device="cuda")
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    times.append(time.perf_counter() - start)

model.eval()
convolutions.eval()
total = 0.0
with torch.inference_mode():
    for length in (1, 17, 128, 500, 33):
        tokens = torch.arange(length, device="cuda").remainder(vocabulary)[None]
        total += model(tokens).double().sum().item()
torch.cuda.synchronize()
print(
    json.dumps(
        {
            "allocator": os.path.basename(which),
            "losses": losses,
            "inference": total,
            "step_ms": 1e3 * sorted(times[10:])[len(times[10:]) // 2],
            **peaks(),
        }
    )
)
