/* Plays the threads of one GPU block as fibers: each runs until it meets a barrier, then the next one does. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { STACK_BYTES = 256 * 1024, MAX_THREADS = 1024, WAVE = 64 };

static ucontext_t scheduler, fiber[MAX_THREADS];
static char* stacks;
static int current, finished[MAX_THREADS];
static int32_t program, exchanged[MAX_THREADS];
static void (*kernel)(void*);
static void* kernel_arguments;
static uint32_t order_seed;

/* 0: threads take turns in order. Anything else: in an order drawn afresh at every barrier: a missing one shows. */
void gpu_shuffle(uint32_t seed) { order_seed = seed; }

int32_t gpu_thread(void) { return current; }
int32_t gpu_program(void) { return program; }
void gpu_barrier(void) { swapcontext(&fiber[current], &scheduler); }

/* Lanes of a wave run in lock step on the GPU; here all meet before and after they exchange values. */
static int32_t exchange(int32_t value, int lane) {
  exchanged[current] = value;
  gpu_barrier();
  int32_t received = exchanged[(current & ~(WAVE - 1)) | (lane & (WAVE - 1))];
  gpu_barrier();
  return received;
}
int32_t gpu_bpermute(int32_t address, int32_t value) { return exchange(value, address >> 2); }
int32_t gpu_first_lane(int32_t value) { return exchange(value, 0); }

static void run_fiber(void) {
  kernel(kernel_arguments);
  finished[current] = 1;
  swapcontext(&fiber[current], &scheduler);
}

static int order[MAX_THREADS];
static void draw_order(int threads) {
  for (int i = 0; i < threads; i++) order[i] = i;
  for (int i = threads - 1; order_seed && i > 0; i--) {
    order_seed = order_seed * 1664525u + 1013904223u;
    int j = (order_seed >> 8) % (i + 1), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
}

/* Programs `first` to `end`. Returns 0, or 1 when there are too many threads or no memory. */
int gpu_launch(void (*entry)(void*), void* arguments, int first, int end, int threads) {
  if (threads > MAX_THREADS) return 1;
  if (!stacks && !(stacks = malloc((size_t)STACK_BYTES * MAX_THREADS))) return 1;
  kernel = entry;
  kernel_arguments = arguments;
  for (program = first; program < end; program++) {
    for (int i = 0; i < threads; i++) {
      getcontext(&fiber[i]);
      fiber[i].uc_stack.ss_sp = stacks + (size_t)i * STACK_BYTES;
      fiber[i].uc_stack.ss_size = STACK_BYTES;
      fiber[i].uc_link = NULL;
      makecontext(&fiber[i], run_fiber, 0);
      finished[i] = 0;
    }
    for (int left = threads; left;) {
      draw_order(threads);
      for (int turn = 0; turn < threads; turn++) {
        current = order[turn];
        if (finished[current]) continue;
        swapcontext(&scheduler, &fiber[current]);
        left -= finished[current];
      }
    }
  }
  return 0;
}
