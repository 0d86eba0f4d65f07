// Philox4x32-10, the bits of src/lapse/philox.py.
#pragma once
#include <algorithm>
#include <cstdint>

#include "recurrent.h"

namespace lapse {
namespace {

// Of the word of each counter (unit / 4, sample, step, gate), in rows of units.
template <class Out, class Of>
inline void philox(const Counters &of_rows, int64_t begin, int64_t end, Out *out, Of of) {
  constexpr int64_t QUADS = 16;  // counters that go side by side through the rounds
  Out drawn[QUADS][4];
  const int64_t gates = of_rows.gate_count, steps = of_rows.step_count, width = of_rows.width;
  for (int64_t row = begin; row < end; row++) {
    const uint32_t gate = of_rows.gates[row % gates], step = of_rows.steps[row / gates % steps];
    const uint32_t sample = of_rows.samples[row / gates / steps];
    for (int64_t first = 0; first < width; first += 4 * QUADS) {
      for (int64_t q = 0; q < QUADS; q++) {
        uint32_t c0 = uint32_t(first / 4 + q), c1 = sample, c2 = step, c3 = gate;
        uint32_t k0 = of_rows.key[0], k1 = of_rows.key[1];
        for (int round = 0; round < 10; round++) {
          const uint64_t p0 = uint64_t(c0) * 0xD2511F53u, p1 = uint64_t(c2) * 0xCD9E8D57u;
          c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
          c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
          k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        drawn[q][0] = of(c0), drawn[q][1] = of(c1), drawn[q][2] = of(c2), drawn[q][3] = of(c3);
      }
      std::copy_n(&drawn[0][0], std::min(4 * QUADS, width - first), out + row * width + first);
    }
  }
}

inline void words(const Counters &rows, int64_t begin, int64_t end, uint32_t *out) {
  philox(rows, begin, end, out, [](uint32_t word) { return word; });
}

inline void coins(const Counters &rows, int64_t begin, int64_t end, uint32_t threshold,
                  uint8_t *out) {
  philox(rows, begin, end, out, [=](uint32_t word) { return uint8_t(word >= threshold); });
}

}  // namespace
}  // namespace lapse
