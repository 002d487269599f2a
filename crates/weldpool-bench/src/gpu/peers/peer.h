// What a peer gives the benchmark: plain functions, called through pointers in the loops that call ours.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
// Opens the peer at a setting; 0 on success. `threads` streams are made, one for each thread.
int peer_open(const char* setting, int threads);
// Memory on the stream of this thread's number; null when there is none.
void* peer_allocate(int thread, size_t bytes);
void peer_free(int thread, void* address, size_t bytes);
// Most bytes held from the driver so far.
uint64_t peer_peak_reserved();
// Name and version.
const char* peer_version();
}
