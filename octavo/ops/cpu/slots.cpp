// The two ends of a step at the slots: a plan's inputs, and what its samples change. The same as
// runner/inputs.py and runner/commit.py, which say why. Knows no model and no kernel.
#include <string.h>

#include "abi.h"

namespace {

enum { COLUMNS = 5, RUNNING = 0, EOS = 1, STOP = 2, LENGTH = 3 };

// What the scheduler may not have wrong: a bound below the truth, a position nobody knows, or so
// many drafts that the token after them has no place.
bool sound(const OctSlots& s, const int64_t* work, int64_t start, int64_t count, int64_t drafts) {
  if (count == 0) return true;
  return count > 0 && drafts >= 0 && drafts < count && start >= 0 && start <= work[1] && start + count < s.width &&
         start + count - drafts <= s.known[work[0]];
}

void add_sampled(const OctSlots& s, OctBegun& b, int64_t row) {
  const int64_t slot = b.slot[row], known = s.known[slot], drafts = b.drafts[row];
  b.sampled[b.samples++] = row;
  for (int64_t j = 0; j <= drafts; j++, b.scored++) {
    b.row_slot[b.scored] = slot;
    b.row_position[b.scored] = known + j;
    b.row_known[b.scored] = known;
    b.logits_at[b.scored] = b.first[row] + b.count[row] - 1 - drafts + j;
  }
}

void add_live(const OctSlots& s, OctBegun& b, int64_t row) {
  const int64_t slot = b.slot[row], start = b.start[row], count = b.count[row];
  const int32_t* line = s.tokens + slot * s.width;
  for (int64_t j = 0; j < count; j++) {
    b.ids[b.tokens + j] = line[start + j];
    b.positions[b.tokens + j] = start + j;
  }
  for (int64_t g = 0; g < s.groups; g++) {
    const OctPages& pages = s.pages[g];
    const int32_t* table = pages.table + slot * pages.stride;
    const int64_t used = (start + count + pages.page - 1) / pages.page;
    memcpy(pages.rows + b.live * pages.stride, table, sizeof(int32_t) * static_cast<size_t>(used));
    for (int64_t j = 0; j < count; j++)
      pages.places[b.tokens + j] = table[(start + j) / pages.page] * pages.page + (start + j) % pages.page;
  }
  b.lengths[b.live] = static_cast<int32_t>(start + count);
  b.tokens += count;
  b.row_start[++b.live] = static_cast<int32_t>(b.tokens);
  if (start + count > b.longest) b.longest = start + count;
  if (count > b.widest) b.widest = count;
}

bool among(const int64_t* ids, int64_t count, int64_t token) {
  for (int64_t i = 0; i < count; i++)
    if (ids[i] == token) return true;
  return false;
}

uint8_t ending(const OctSlots& s, int64_t slot, int64_t token, int64_t position) {
  if (position >= s.earliest[slot]) {
    if (among(s.eos + slot * s.eos_width, s.eos_width, token)) return EOS;
    if (among(s.stop + slot * s.stop_width, s.stop_width, token)) return STOP;
  }
  return position >= s.last[slot] ? LENGTH : RUNNING;
}

// Accepts drafts that equal the samples before them, up to the first token that ends the row.
void settle(const OctSlots& s, const OctBegun& b, const OctEnded& e, int64_t row, const int64_t* samples) {
  const int64_t slot = b.slot[row], known = s.known[slot], drafts = b.drafts[row];
  int32_t* line = s.tokens + slot * s.width + known;
  int64_t n = 0;
  for (bool goes_on = true; goes_on; n++) {
    const bool agrees = n < drafts && samples[n] == line[n];
    line[n] = static_cast<int32_t>(samples[n]);
    e.finished[row] = ending(s, slot, samples[n], known + n);
    goes_on = agrees && e.finished[row] == RUNNING;
  }
  for (int64_t j = 0; j <= drafts; j++) e.tokens[row * b.width + j] = static_cast<int32_t>(samples[j]);
  e.counts[row] = static_cast<int32_t>(n);
  s.known[slot] = known + n;
  s.computed[slot] = known + n - 1;  // the newest token has no KV yet
}

}  // namespace

extern "C" int32_t oct_begin(const OctSlots* slots, const int64_t* work, int64_t rows, OctBegun* begun) {
  const OctSlots& s = *slots;
  OctBegun& b = *begun;
  b.tokens = b.live = b.samples = b.scored = b.longest = b.widest = 0;
  b.width = 1;
  b.row_start[0] = 0;
  for (int64_t row = 0; row < rows; row++, work += COLUMNS) {
    const int64_t slot = work[0], drafts = work[3];
    if (slot < 0 || slot >= s.slots) return -1;
    const int64_t start = s.computed[slot], count = s.done[slot] ? 0 : work[2];
    if (!sound(s, work, start, count, drafts) || b.tokens + count > b.room) return -1;
    b.slot[row] = slot;
    b.start[row] = start;
    b.count[row] = count;
    b.drafts[row] = drafts;
    b.logits[row] = work[4];
    b.first[row] = b.tokens;
    if (drafts >= b.width) b.width = drafts + 1;
    if (count == 0) continue;
    if (s.samples[slot] && work[4] > 0 && start + count - drafts == s.known[slot]) add_sampled(s, b, row);
    add_live(s, b, row);
  }
  return 0;
}

extern "C" void oct_end(const OctSlots* slots, const OctBegun* begun, int64_t rows, const int64_t* samples,
                        OctEnded* ended) {
  const OctSlots& s = *slots;
  const OctBegun& b = *begun;
  const OctEnded& e = *ended;
  memset(e.tokens, 0, sizeof(int32_t) * static_cast<size_t>(rows * b.width));
  int64_t next = 0;
  for (int64_t row = 0; row < rows; row++) {
    const int64_t slot = b.slot[row], end = b.start[row] + b.count[row];
    e.counts[row] = 0;
    e.finished[row] = RUNNING;
    if (b.count[row] == 0) continue;
    s.computed[slot] = end;
    if (next < b.samples && b.sampled[next] == row) {
      next++;
      settle(s, b, e, row, samples);
      samples += b.drafts[row] + 1;
    } else if (!s.samples[slot] && end >= s.known[slot]) {
      e.finished[row] = LENGTH;
    }
    if (e.finished[row] != RUNNING) s.done[slot] = 1;
  }
}
