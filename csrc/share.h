// Common to the three passes: a part's share of the work, its workspace, rows and masks.
#pragma once
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "gemm.h"
#include "recurrent.h"

namespace lapse {
namespace {

// Hands out pieces of a workspace, aligned to whole vectors; with a null workspace it only counts.
struct Room {
  float *at;
  int64_t taken = 0;
  float *take(int64_t size) {
    float *from = at ? at + taken : nullptr;
    taken += padded(size);
    return from;
  }
};

// Row (t, b); null where there are no rows.
float *row(const Rows &rows, int64_t t, int64_t b) {
  return rows.at ? rows.at + t * rows.time + b * rows.batch : nullptr;
}

float *moved(float *array, int64_t by) { return array ? array + by : nullptr; }
const float *moved(const float *array, int64_t by) { return array ? array + by : nullptr; }

// A row of a mask, of which `range` is read. Bytes are converted to numbers in `room`; `none` is
// returned where there is no noise.
const float *factors(const Mask &mask, int64_t t, int64_t b, Columns range, float *room,
                     const float *none = nullptr) {
  if (!mask.at) return none;
  const int64_t first = t * mask.time + b * mask.batch;
  if (!mask.bytes) return static_cast<const float *>(mask.at) + first;
  const uint8_t *from = static_cast<const uint8_t *>(mask.at) + first;
  for (int64_t u = range.begin; u < range.end; u++) room[u] = mask.scale * float(from[u]);
  return room;
}

const Mask &of_gate(const Mask *masks, int64_t count, int64_t gate) {
  return masks[count > 1 ? gate : 0];
}

// What one part works on: its units, its samples, and which of these are real and which are padding at
// the current step. Without padding the samples of a part are neighbours, so that no core prefetches
// what another core writes. With padding each part gets long and short samples, so that all parts have
// about the same work.
struct Share {
  const Layer &layer;
  const Columns units;
  const int64_t first;  // sample, without padding
  std::vector<int64_t> samples, real, padding;

  Share(const Layer &l, Part part)
      : layer(l),
        units(part.of_units ? cut(l.units, part.index, part.count) : Columns{0, l.units}),
        first(part.of_units ? 0 : part.index * l.batch / part.count) {
    if (!l.running || part.of_units) {
      const int64_t last = part.of_units ? l.batch : (part.index + 1) * l.batch / part.count;
      for (int64_t b = first; b < last; b++) samples.push_back(b);
      real = samples;
      return;
    }
    std::vector<std::pair<int64_t, int64_t>> longest_first;
    for (int64_t b = 0; b < l.batch; b++) {
      const uint8_t *of_b = l.running + b * l.timesteps;
      longest_first.push_back({-std::accumulate(of_b, of_b + l.timesteps, int64_t(0)), b});
    }
    std::sort(longest_first.begin(), longest_first.end());
    for (int64_t n = part.index; n < l.batch; n += part.count)
      samples.push_back(longest_first[n].second);
  }

  void at(int64_t t) {
    if (!layer.running) return;
    real.clear(), padding.clear();
    for (int64_t b : samples)
      (layer.running[b * layer.timesteps + t] ? real : padding).push_back(b);
  }
};

// The n-th step in running order.
int64_t step_of(const Layer &l, int64_t n) { return l.reverse ? l.timesteps - 1 - n : n; }

// What `all` holds of the step before t; `first` where t is the first step.
const float *before(const float *first, const float *all, int64_t t, const Layer &l) {
  const int64_t from = l.reverse ? t + 1 : t - 1;
  return from < 0 || from == l.timesteps ? first : moved(all, from * l.batch * l.units);
}

// A row as a gate reads it: times its mask, if it has one.
void read(float *to, const float *from, const float *mask, int64_t n) {
  if (!mask) {
    std::copy(from, from + n, to);
    return;
  }
  for (int64_t u = 0; u < n; u++) to[u] = from[u] * mask[u];
}

// The part of z that gate k computes from x or from h: the n of a GRU keeps the two apart.
template <class Cell> constexpr int part_of(int k, bool of_h) {
  return of_h && Cell::SAVED > Cell::GATES && k == Cell::GATES - 1 ? k + 1 : k;
}

// Gradients before the gates' activations, of the n-th step of backward.
float *gradients(const Layer &l, int64_t n, int64_t b, int64_t parts) {
  return l.dz + (n % (l.dz_steps * RING) * l.batch + b) * parts * l.units;
}

}  // namespace
}  // namespace lapse
