/* Counts what a process takes from malloc. Preloaded; needs MALLOC_COUNTER_FILE.
 *
 * The file holds three 64-bit numbers in the machine's order, always up to date: bytes that are
 * live, bytes ever taken, calls that took some. Sizes are those of the blocks that malloc gave,
 * which are a little larger than what was asked for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct counts {
    int64_t live;
    int64_t bytes;
    int64_t calls;
};

static struct counts before_file;
static struct counts *counts = &before_file;

/* glibc's own names, so that looking symbols up allocates nothing. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

__attribute__((constructor)) static void open_file(void) {
    const char *name = getenv("MALLOC_COUNTER_FILE");
    int file = name ? open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (file < 0 || ftruncate(file, sizeof before_file) != 0) return;
    void *map = mmap(NULL, sizeof before_file, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) return;
    *(struct counts *)map = before_file;
    counts = map;
}

static void *taken(void *block) {
    if (block) {
        int64_t size = (int64_t)malloc_usable_size(block);
        __atomic_add_fetch(&counts->live, size, __ATOMIC_RELAXED);
        __atomic_add_fetch(&counts->bytes, size, __ATOMIC_RELAXED);
        __atomic_add_fetch(&counts->calls, 1, __ATOMIC_RELAXED);
    }
    return block;
}

static void given_back(void *block) {
    if (block) __atomic_sub_fetch(&counts->live, (int64_t)malloc_usable_size(block), __ATOMIC_RELAXED);
}

void *malloc(size_t size) { return taken(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return taken(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    *block = memalign(alignment, size);
    return *block ? 0 : 12; /* ENOMEM */
}

void *realloc(void *block, size_t size) {
    given_back(block);
    void *moved = __libc_realloc(block, size);
    if (!moved && size) { /* the block is still there */
        if (block) __atomic_add_fetch(&counts->live, (int64_t)malloc_usable_size(block), __ATOMIC_RELAXED);
        return NULL;
    }
    return taken(moved);
}

void free(void *block) {
    given_back(block);
    __libc_free(block);
}
