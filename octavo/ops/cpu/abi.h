// The C interface of the kernel library: plain structs and functions, called through ctypes.
// Mirrored by lib.py; a change here needs the same change there and a new ABI number.
#pragma once
#include "formats.h"

#define OCT_ABI 3
#ifdef __cplusplus
extern "C" {
#pragma GCC visibility push(default)
#endif

enum OctLevel {
  OCT_PORTABLE = 0,
  OCT_AVX2 = 1,
  OCT_AVX512 = 2,       // F BW DQ VL VNNI
  OCT_AVX512_BF16 = 3,  // and BF16
  OCT_AMX = 4,          // and AMX tiles for int8 and bf16
  OCT_NEON = 5,         // what every aarch64 has
  OCT_NEON_DOTPROD = 6, // and dot products of bytes
  OCT_LEVELS = 7
};

enum OctCode { OCT_OP_EMBED = 0, OCT_OP_LINEAR = 1, OCT_OP_ATTENTION = 2, OCT_OP_NORM = 3, OCT_OP_ANGLES = 4 };
// Buffers are numbered; number b of a program holds width[b] floats a token. -1: none.
enum { OCT_BUFFERS = 8 };

// One step of a program. Fields that an op does not use are zero. in, out, angles: buffers; the
// angles of a token are rope_dim / 2 cosines, then as many sines.
typedef struct OctOp {
  int32_t code, prologue, add, in, out, heads, kv_heads, head_dim;
  int32_t rope_dim, window, group, page, cache_type, layer, column, angles;
  float eps, scale, softcap, reserved_f;
  const OctWeight* weight;
  const float* norm;    // LINEAR with OCT_NORMED, NORM: [k]
  const float* bias;    // LINEAR: [n]
  const float* rope;    // ANGLES: [rope_dim / 2] frequencies
  const float* q_norm;  // ATTENTION: [head_dim], before the rotation
  const float* k_norm;
} OctOp;

// What one cache group sees of a step; the arrays of nn.forward.GroupInputs.
typedef struct OctGroup {
  const int32_t* lengths;  // [rows]
  const int32_t* tables;   // [rows, table_stride]
  int64_t table_stride;
} OctGroup;

// The inputs of one run.
typedef struct OctStep {
  int64_t tokens, rows;
  const int64_t* ids;         // [tokens], EMBED
  const int64_t* positions;   // [tokens], ATTENTION
  const int32_t* row_start;   // [rows + 1]
  const OctGroup* groups;
  void* const* caches;        // [layers]
  float* buffers[OCT_BUFFERS];  // where a buffer lives outside; null: in the arena
  double* seconds;            // [count]: adds the CPU time the caller spent on each op, or null
} OctStep;

// Rows of logits to draw a token from. What a request asked for stands at its slot.
typedef struct OctSample {
  int64_t rows, vocab;
  const float* logits;        // [rows, vocab]
  const int64_t* slots;       // [rows]
  const int64_t* positions;   // [rows], where the token goes
  const float* temperature;   // by slot; 0: greedy
  const float* gap;           // by slot: log of min_p, -inf where there is none
  const int64_t* top_k;       // by slot; 0: all
  const double* top_p;        // by slot
  const int64_t* seed;        // by slot
  int64_t* tokens;            // [rows]; -1: a logit is NaN or +inf, or none is above -inf
} OctSample;

// Block tables of one cache group, and what a step sees of them.
typedef struct OctPages {
  int64_t page, stride;  // positions a page, pages a slot
  const int32_t* table;  // [slots, stride]
  int32_t* rows;         // [live rows, stride], written as far as a row reaches
  int64_t* places;       // [tokens]: page * positions + offset
} OctPages;

// What is true of every request (runner/slots.py).
typedef struct OctSlots {
  int64_t slots, width, groups;
  int32_t* tokens;  // [slots, width]
  int64_t *known, *computed;
  const uint8_t* samples;
  uint8_t* done;
  const int64_t *earliest, *last;
  const int64_t *eos, *stop;  // [slots, eos_width], [slots, stop_width], padded with -1
  int64_t eos_width, stop_width;
  const OctPages* pages;  // [groups]
} OctSlots;

// A step's inputs (runner/inputs.py), written by oct_begin. [rows] unless said otherwise.
typedef struct OctBegun {
  int64_t room;  // given: tokens there is space for
  int64_t tokens, live, samples, scored, width, widest, longest;
  int64_t *slot, *start, *count, *drafts, *logits, *first;
  int64_t* sampled;                                             // [samples] rows
  int64_t *row_slot, *row_position, *row_known, *logits_at;     // [scored]
  int64_t *ids, *positions;                                     // [tokens]
  int32_t *row_start, *lengths;                                 // [live + 1], [live]
} OctBegun;

// What a step brought (runner/commit.py), written by oct_end.
typedef struct OctEnded {
  int32_t* tokens;    // [rows, width]
  int32_t* counts;    // [rows]
  uint8_t* finished;  // [rows]
} OctEnded;

typedef struct OctEngine OctEngine;

int32_t oct_abi(void);
int32_t oct_best_level(void);               // of this CPU
int32_t oct_has_level(int32_t level);       // whether it was compiled and this CPU runs it
const char* oct_level_name(int32_t level);  // null where out of range

// threads >= 1; cpus: [threads] to pin to, or null. Null where the level cannot run here.
OctEngine* oct_engine_create(int32_t threads, int32_t level, const int32_t* cpus);
void oct_engine_destroy(OctEngine*);

// Bytes of a packed [n, k]; -1 where the format cannot hold that k.
int64_t oct_packed_bytes(int32_t format, int64_t n, int64_t k);

// Packs rows [first, first + rows) of w from src, [rows, row bytes] as the format stores them
// (F32, BF16: elements; GGUF: blocks; INT8: int8 [k]). scales: [rows], INT8 only. Rows are
// split among the threads. 0, or -1 where the rows do not fit w.
int32_t oct_pack(OctEngine*, const OctWeight* w, const void* src, const float* scales, int64_t first, int64_t rows);

// Row r of w as floats [k]. 0, or -1 where r is out of range.
int32_t oct_row(const OctWeight* w, int64_t r, float* out);

// Runs a program. width: [OCT_BUFFERS] floats a token. One run at a time an engine. 0, or -1
// where memory for the arena could not be had, -2 where an id or position is out of range.
int32_t oct_run(OctEngine*, const OctOp* ops, int64_t count, const int64_t* width, const OctStep* step);

// Inputs of a plan's work table, [rows, 5]. 0, or -1 where the table contradicts the slots.
int32_t oct_begin(const OctSlots*, const int64_t* work, int64_t rows, OctBegun*);

// Writes samples [scored] of the step begun last into the slots.
void oct_end(const OctSlots*, const OctBegun*, int64_t rows, const int64_t* samples, OctEnded*);

// Draws a token for each row. 0, or -1 where memory could not be had, -2 where vocab is out of range.
int32_t oct_sample(OctEngine*, const OctSample*);

#ifdef __cplusplus
#pragma GCC visibility pop
}
#endif
