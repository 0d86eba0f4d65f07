// Philox4x32-10, with the bits of src/lapse/core/philox.py.
#pragma once
#include "recurrent.h"
#include "vector.h"

namespace lapse {
namespace {

// 32-bit words, each in the lower half of a 64-bit lane; the upper half is ignored.
typedef uint64_t Words __attribute__((vector_size(LANES * sizeof(float))));

constexpr int64_t EACH = LANES / 2, TOGETHER = 4;  // lanes, and vectors computed together
constexpr int64_t QUADS = EACH * TOGETHER;         // counters; each gives four words

// All 64 bits of the products of words. Processors have one instruction for it; compilers make several
// of the portable form.
inline Words product(Words words, uint32_t factor) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_mul_epu32(0xFF, (__m512i)words, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)words, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)words, _mm_set1_epi64x(factor));
#else
  return (words & 0xFFFFFFFFu) * factor;
#endif
}

// The four words of QUADS counters.
struct Counting {
  alignas(sizeof(Words)) uint64_t words[4][QUADS];
};

// Stores at drawn[q] what `of` makes of the four words of the q-th counter, for all of QUADS.
template <class Of, class Drawn>
inline void rounds(const uint32_t *key, const Counting &at, Of of, Drawn *drawn) {
  Words c[4][TOGETHER];
  std::memcpy(c, at.words, sizeof(c));
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    for (int64_t v = 0; v < TOGETHER; v++) {
      const Words p0 = product(c[0][v], 0xD2511F53u), p1 = product(c[2][v], 0xCD9E8D57u);
      c[0][v] = (p1 >> 32) ^ c[1][v] ^ k0, c[1][v] = p1;
      c[2][v] = (p0 >> 32) ^ c[3][v] ^ k1, c[3][v] = p0;
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  for (int64_t v = 0; v < TOGETHER; v++) of(c[0][v], c[1][v], c[2][v], c[3][v], drawn + v * EACH);
}

// Draws row after row; a row that needs fewer than QUADS counters shares them with the next rows. `of`
// turns the words of each counter into four numbers, which are one `Drawn`.
template <class Drawn, class Out, class Of>
inline void philox(const Counters &rows, int64_t begin, int64_t end, Out *out, Of of) {
  static_assert(sizeof(Drawn) == 4 * sizeof(Out));
  const int64_t gates = rows.gate_count, steps = rows.step_count, width = rows.width;
  const int64_t quads = (width + 3) / 4;
  Counting at = {};
  Drawn drawn[QUADS];
  int64_t filled = 0;
  struct {
    int64_t row, quad;  // of the first counter that is filled
  } from = {begin, 0};
  auto flush = [&] {
    rounds(rows.key, at, of, drawn);
    for (int64_t q = 0; q < filled;) {
      const int64_t count = std::min(filled - q, quads - from.quad), first = 4 * from.quad;
      std::memcpy(out + from.row * width + first, drawn + q,
                  std::min(4 * count, width - first) * sizeof(Out));
      q += count, from.quad += count;
      if (from.quad == quads) from = {from.row + 1, 0};
    }
    filled = 0;
  };
  int64_t sample = begin / gates / steps, step = begin / gates % steps, gate = begin % gates;
  for (int64_t row = begin; row < end; row++) {
    for (int64_t quad = 0; quad < quads;) {
      const int64_t last = std::min(filled + quads - quad, QUADS);
      for (; filled < last; filled++, quad++) {
        at.words[0][filled] = quad, at.words[1][filled] = rows.samples[sample];
        at.words[2][filled] = rows.steps[step], at.words[3][filled] = rows.gates[gate];
      }
      if (filled == QUADS) flush();
    }
    if (++gate == gates) gate = 0, step++;
    if (step == steps) step = 0, sample++;
  }
  if (filled) flush();
}

struct Four {
  uint32_t words[4];
};

inline void words(const Counters &rows, int64_t begin, int64_t end, uint32_t *out) {
  philox<Four>(rows, begin, end, out, [](Words a, Words b, Words c, Words d, Four *drawn) {
    for (int64_t q = 0; q < EACH; q++)
      drawn[q] = {{uint32_t(a[q]), uint32_t(b[q]), uint32_t(c[q]), uint32_t(d[q])}};
  });
}

// Four bytes are computed as one number, because that has a lane of a vector.
inline void coins(const Counters &rows, int64_t begin, int64_t end, uint32_t threshold,
                  uint8_t *out) {
  constexpr int FIRST = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 24, NEXT = FIRST ? -8 : 8;
  philox<uint32_t>(rows, begin, end, out, [=](Words a, Words b, Words c, Words d, uint32_t *drawn) {
    auto coin = [=](Words word, int place) {
      return (Words)((word & 0xFFFFFFFFu) >= threshold) & uint64_t(1) << (FIRST + place * NEXT);
    };
    const Words four = coin(a, 0) | coin(b, 1) | coin(c, 2) | coin(d, 3);
    for (int64_t q = 0; q < EACH; q++) drawn[q] = uint32_t(four[q]);
  });
}

}  // namespace
}  // namespace lapse
