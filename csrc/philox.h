// Philox4x32-10, the bits of src/lapse/philox.py.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "recurrent.h"

namespace lapse {
namespace {

// What `of` makes of the four words of each counter (unit / 4, sample, step, gate), in rows of units.
template <class Out, class Of>
inline void philox(const Counters &rows, int64_t begin, int64_t end, Out *out, Of of) {
  constexpr int64_t QUADS = 16;  // counters that go side by side through the rounds
  decltype(of(0, 0, 0, 0)) drawn[QUADS];
  static_assert(sizeof(drawn[0]) == 4 * sizeof(Out));
  const int64_t gates = rows.gate_count, steps = rows.step_count, width = rows.width;
  for (int64_t row = begin; row < end; row++) {
    const uint32_t gate = rows.gates[row % gates], step = rows.steps[row / gates % steps];
    const uint32_t sample = rows.samples[row / gates / steps];
    for (int64_t first = 0; first < width; first += 4 * QUADS) {
      for (int64_t q = 0; q < QUADS; q++) {
        uint32_t c0 = uint32_t(first / 4 + q), c1 = sample, c2 = step, c3 = gate;
        uint32_t k0 = rows.key[0], k1 = rows.key[1];
        for (int round = 0; round < 10; round++) {
          const uint64_t p0 = uint64_t(c0) * 0xD2511F53u, p1 = uint64_t(c2) * 0xCD9E8D57u;
          c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
          c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
          k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        drawn[q] = of(c0, c1, c2, c3);
      }
      std::memcpy(out + row * width + first, drawn, std::min(4 * QUADS, width - first) * sizeof(Out));
    }
  }
}

struct Four {
  uint32_t words[4];
};

inline void words(const Counters &rows, int64_t begin, int64_t end, uint32_t *out) {
  philox(rows, begin, end, out, [](uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return Four{{a, b, c, d}};
  });
}

// Four bytes are made as one number, which vectors have lanes for.
inline void coins(const Counters &rows, int64_t begin, int64_t end, uint32_t threshold,
                  uint8_t *out) {
  constexpr int FIRST = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 24, NEXT = FIRST ? -8 : 8;
  philox(rows, begin, end, out, [=](uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return uint32_t(a >= threshold) << FIRST | uint32_t(b >= threshold) << (FIRST + NEXT) |
           uint32_t(c >= threshold) << (FIRST + 2 * NEXT) |
           uint32_t(d >= threshold) << (FIRST + 3 * NEXT);
  });
}

}  // namespace
}  // namespace lapse
