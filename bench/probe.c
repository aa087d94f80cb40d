/* What this CPU can do at most: bytes read a second by n threads, and multiply-adds a second of the
 * instructions that the kernels are made of (AVX-512 only). Knows nothing of models; compiled where it
 * runs. Prints lines of "name threads value". */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { SUMS = 12, TURNS = 2000000, ROUNDS = 25, HUGE = 2 << 20 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

typedef struct {
  const char* data;
  size_t bytes;
  int (*loop)(void);
  pthread_barrier_t* barrier;
  double seconds;
  int kept; /* so that no result is unused */
} Task;

typedef uint64_t Line __attribute__((vector_size(64)));

/* Four streams a thread, with prefetching as the kernels do it. */
static int read_all(const char* data, size_t bytes) {
  Line sums[4] = {{0}, {0}, {0}, {0}};
  size_t part = bytes / 4 / sizeof(Line) * sizeof(Line);
  for (size_t at = 0; at < part; at += sizeof(Line))
    for (int i = 0; i < 4; i++) {
      const char* line = data + i * part + at;
      __builtin_prefetch(line + 1024);
      sums[i] ^= *(const Line*)line;
    }
  sums[0] ^= sums[1] ^ sums[2] ^ sums[3];
  return (int)(sums[0][0] ^ sums[0][7]);
}

#ifdef __AVX512F__
/* Independent sums, enough of them to hide the latency; the asm keeps each in a register of its own. */
#define EACH(what) _Pragma("GCC unroll 12") for (int i = 0; i < SUMS; i++) what
#define LOOP(name, type, zero, step)                            \
  static int name(void) {                                       \
    type s[SUMS], a = zero, b = zero;                           \
    int kept = 0;                                               \
    __asm__ volatile("" : "+v"(a), "+v"(b));                    \
    EACH(s[i] = zero;)                                          \
    for (long turn = 0; turn < TURNS; turn++)                   \
      EACH({ s[i] = step; __asm__ volatile("" : "+v"(s[i])); }) \
    EACH(kept += (int)s[i][0];)                                 \
    return kept;                                                \
  }
LOOP(fma_loop, __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, b, s[i]))
#ifdef __AVX512VNNI__
LOOP(int8_loop, __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(s[i], a, b))
#endif
#ifdef __AVX512BF16__
LOOP(bf16_loop, __m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(s[i], (__m512bh)a, (__m512bh)b))
#endif
#endif

static void* run(void* given) {
  Task* task = given;
  pthread_barrier_wait(task->barrier);
  double began = now();
  task->kept = task->loop ? task->loop() : read_all(task->data, task->bytes);
  task->seconds = now() - began;
  return NULL;
}

/* The best of some rounds: seconds until the last thread is done. */
static double best(int threads, const char* data, size_t bytes, int (*loop)(void)) {
  pthread_t ids[threads];
  Task tasks[threads];
  pthread_barrier_t barrier;
  double least = 1e9;
  size_t part = bytes / threads / 4096 * 4096;
  for (int round = 0; round < ROUNDS; round++) {
    pthread_barrier_init(&barrier, NULL, threads);
    for (int i = 0; i < threads; i++) {
      tasks[i] = (Task){data + i * part, part, loop, &barrier, 0, 0};
      pthread_create(&ids[i], NULL, run, &tasks[i]);
    }
    double longest = 0;
    for (int i = 0; i < threads; i++) {
      pthread_join(ids[i], NULL);
      if (tasks[i].seconds > longest) longest = tasks[i].seconds;
    }
    pthread_barrier_destroy(&barrier);
    if (longest < least) least = longest;
  }
  return least;
}

static int reads(int threads, long mib) {
  size_t bytes = (size_t)mib << 20;
  char* data = aligned_alloc(HUGE, (bytes + 2 * HUGE) / HUGE * HUGE);
  if (!data) return 1;
  madvise(data, bytes + HUGE, MADV_HUGEPAGE);
  memset(data, 1, bytes + HUGE);
  printf("read_%ld_MiB %d %.3e\n", mib, threads, bytes / best(threads, data, bytes, NULL));
  free(data);
  return 0;
}

#ifdef __AVX512F__
static void peak(const char* name, int threads, int (*loop)(void), int per_instruction) {
  double seconds = best(threads, NULL, 0, loop);
  printf("%s %d %.3e\n", name, threads, 2.0 * threads * per_instruction * SUMS * TURNS / seconds);
}
#endif

int main(int count, char** words) {
  if (count < 2) return fprintf(stderr, "usage: probe THREADS [MIB ...]\n"), 2;
  int threads = atoi(words[1]);
  if (threads < 1 || threads > 256) return fprintf(stderr, "threads: 1 to 256\n"), 2;
  for (int i = 2; i < count; i++)
    if (reads(threads, atol(words[i]))) return 1;
#ifdef __AVX512F__
  peak("float32", threads, fma_loop, 16);
#endif
#ifdef __AVX512VNNI__
  peak("int8", threads, int8_loop, 64);
#endif
#ifdef __AVX512BF16__
  peak("bf16", threads, bf16_loop, 32);
#endif
  return 0;
}
