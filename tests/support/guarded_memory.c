/* Preloaded (LD_PRELOAD), gives every tensor pages of its own that end in an inaccessible one: a read or write past the
   end of a tensor stops the program; what rounding to 64 bytes leaves is poisoned and checked when it is freed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, ALIGNMENT = 64, POISON = 0xa5 };
static const size_t ARENA = (size_t)1 << 38;
static const size_t LARGEST = (size_t)1 << 27; /* of a tensor: address space is not used twice */
static char* arena;
static char* next;

/* The first page of an allocation holds its size; the tensor ends where the last, inaccessible page begins. */
struct head {
  size_t size, pages;
  char* start;
};

static void fail(const char* message) {
  if (write(2, message, strlen(message)) < 0) _exit(98);
  _exit(99);
}

__attribute__((constructor)) static void reserve(void) {
  arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) fail("guarded memory: no address space\n");
  __atomic_store_n(&next, arena, __ATOMIC_SEQ_CST);
}

int posix_memalign(void** out, size_t alignment, size_t size) {
  if (alignment != ALIGNMENT || arena == NULL) {
    int (*original)(void**, size_t, size_t) = (int (*)(void**, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    return original(out, alignment, size);
  }
  if (size > LARGEST) return ENOMEM;
  const size_t rounded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const size_t pages = (rounded + PAGE - 1) / PAGE;
  char* base = __atomic_fetch_add(&next, (pages + 2) * PAGE, __ATOMIC_SEQ_CST);
  if (base + (pages + 2) * PAGE > arena + ARENA) return ENOMEM;
  if (mprotect(base, (pages + 1) * PAGE, PROT_READ | PROT_WRITE) != 0) return ENOMEM;
  struct head* head = (struct head*)base;
  head->size = size;
  head->pages = pages;
  head->start = base + (pages + 1) * PAGE - rounded;
  memset(base + PAGE, POISON, pages * PAGE);
  *out = head->start;
  return 0;
}

static void check(const char* from, const char* to) {
  for (; from < to; ++from)
    if ((unsigned char)*from != POISON) fail("guarded memory: written outside a tensor\n");
}

extern void __libc_free(void*);

void free(void* pointer) {
  char* at = pointer;
  if (arena == NULL || at < arena || at >= arena + ARENA) {
    __libc_free(pointer);
    return;
  }
  /* Walk back over the pages of the tensor to its head: `start` names the pointer. */
  char* base = arena + (size_t)(at - arena) / PAGE * PAGE;
  do base -= PAGE;
  while (((struct head*)base)->start != at);
  struct head* head = (struct head*)base;
  char* end = base + (head->pages + 1) * PAGE;
  check(base + PAGE, at);
  check(at + head->size, end);
  const size_t pages = head->pages;
  madvise(base, (pages + 1) * PAGE, MADV_DONTNEED);
  mprotect(base, (pages + 1) * PAGE, PROT_NONE);
}
