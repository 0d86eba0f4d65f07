// A vector as wide as the instruction set allows, by the compilers' vector extension.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 3, TALL = 8;  // lanes of a vector, vectors of a panel, rows of a tile
#elif defined(__AVX2__)
constexpr int LANES = 8, WIDE = 2, TALL = 6;
#else
constexpr int LANES = 4, WIDE = 2, TALL = 6;
#endif

namespace {  // each instruction set has its own; shared inline functions would be merged

typedef float vector __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t bits __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef vector unaligned __attribute__((aligned(4), may_alias));

struct Full {};  // all lanes, known at compile time; an `int` says how many at the end of a row

inline vector load(const float *at, Full) { return *(const unaligned *)at; }
inline void store(float *at, vector v, Full) { *(unaligned *)at = v; }

// The first lanes of a vector, in one instruction where processors have it. The portable form is slow,
// because the vector waits for memory.
#if defined(__AVX512F__)
inline vector load(const float *at, int lanes) {
  return (vector)_mm512_maskz_loadu_ps((1u << lanes) - 1, at);
}
inline void store(float *at, vector v, int lanes) {
  _mm512_mask_storeu_ps(at, (1u << lanes) - 1, (__m512)v);
}
#elif defined(__AVX2__)
inline __m256i first(int lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline vector load(const float *at, int lanes) { return (vector)_mm256_maskload_ps(at, first(lanes)); }
inline void store(float *at, vector v, int lanes) {
  _mm256_maskstore_ps(at, first(lanes), (__m256)v);
}
#else
inline vector load(const float *at, int lanes) {
  vector v = {};
  std::memcpy(&v, at, lanes * sizeof(float));
  return v;
}
inline void store(float *at, vector v, int lanes) { std::memcpy(at, &v, lanes * sizeof(float)); }
#endif

inline vector all(float value) { return value - vector{}; }

// Runs body(u, lanes) over units.begin <= u < units.end.
template <class Units, class Body> inline void each_unit(Units units, Body body) {
  int64_t u = units.begin;
  for (; u + LANES <= units.end; u += LANES) body(u, Full{});
  if (u < units.end) body(u, int(units.end - u));
}

// The smaller and the larger of two; x if it is NaN.
#if defined(__AVX512F__)
inline vector smaller(float end, vector x) { return (vector)_mm512_min_ps((__m512)all(end), (__m512)x); }
inline vector larger(float end, vector x) { return (vector)_mm512_max_ps((__m512)all(end), (__m512)x); }
#elif defined(__AVX2__)
inline vector smaller(float end, vector x) { return (vector)_mm256_min_ps((__m256)all(end), (__m256)x); }
inline vector larger(float end, vector x) { return (vector)_mm256_max_ps((__m256)all(end), (__m256)x); }
#elif defined(__SSE2__)
inline vector smaller(float end, vector x) { return (vector)_mm_min_ps((__m128)all(end), (__m128)x); }
inline vector larger(float end, vector x) { return (vector)_mm_max_ps((__m128)all(end), (__m128)x); }
#else
inline vector smaller(float end, vector x) { return x > end ? all(end) : x; }
inline vector larger(float end, vector x) { return x < end ? all(end) : x; }
#endif

// e^x as power * (1 + rest), with power = 2^n for the whole number n nearest to x / log 2. For n = -127
// power is 0, and for n = 128 infinite, so that results saturate exactly.
struct Exponential {
  vector power, rest;
};

// x: n must lie in [-127, 128].
inline Exponential exponential(vector x) {
  constexpr float LOG2 = 0.693147182f, TO_BITS = 12582912 + 127;  // + n: n + 127 in the lowest bits
  const vector shifted = x * (1 / LOG2) + TO_BITS;
  const vector r = (shifted - TO_BITS) * -LOG2 + x;
  // Least relative error in e^r - 1 on [-log 2 / 2, log 2 / 2]: 1.4e-8.
  vector p = r * 0.0013900426f + 0.00836611167f;
  p = r * p + 0.0416668281f;
  p = r * p + 0.16666548f;
  p = r * p + 0.5f;
  return {(vector)((bits)shifted << 23), r * r * p + r};
}

// Both are exact to 1e-7, reach their limits exactly, as PyTorch's do, and keep NaN.
inline vector sigmoid(vector x) {
  const Exponential e = exponential(-larger(-88.8f, smaller(88, x)));
  return 1 / (1 + (1 + e.rest) * e.power);
}

// By e^2|x| - 1, which stays accurate where it is small.
inline vector tanh(vector x) {
  const bits sign = (bits)x & 0x80000000u;
  const vector size = smaller(15, (vector)((bits)x ^ sign));
  const Exponential e = exponential(size + size);
  const vector m = e.rest * e.power + (e.power - 1);
  return (vector)((bits)(m / (m + 2)) | sign);
}

}  // namespace
