// C = A P, where P is a matrix packed into panels of columns: [panel][row][WIDE * LANES], the last
// panel of each gate as narrow as it can be. Each gate starts a panel of its own, so that gates can
// read different A.
#pragma once
#include "vector.h"

namespace {

inline int64_t padded(int64_t units) { return (units + LANES - 1) / LANES * LANES; }

inline int64_t packed_size(int64_t rows, int64_t gates, int64_t columns) {
  return rows * gates * padded(columns);
}

// `matrix` has rows of `row_size` floats, of which the first gates * columns are packed.
inline void pack(const float *matrix, int64_t row_size, int64_t rows, int64_t gates, int64_t columns,
                 float *packed) {
  for (int64_t gate = 0; gate < gates; gate++)
    for (int64_t first = 0; first < columns; first += WIDE * LANES) {
      const int64_t real = std::min<int64_t>(WIDE * LANES, columns - first), width = padded(real);
      for (int64_t row = 0; row < rows; row++, packed += width) {
        const float *from = matrix + row * row_size + gate * columns + first;
        std::copy(from, from + real, packed);
        std::fill(packed + real, packed + width, 0.0f);
      }
    }
}

// A [rows][depth] with its strides: `row` apart lie the rows, `step` the elements of one.
struct Matrix {
  const float *at;
  int64_t row, step;
};

// `ahead` is fetched into the second-level cache on the way, in steps of `pace`: a matrix that fits
// nowhere nearer comes in while the product before it is computed.
template <int ROWS, int VECTORS>
inline void tile(int64_t depth, Matrix a, const float *panel, float *c, int64_t c_row, bool add,
                 const float *ahead, int64_t pace) {
  vector sum[ROWS][VECTORS] = {};
  if (add)
    for (int m = 0; m < ROWS; m++)
      for (int v = 0; v < VECTORS; v++) sum[m][v] = *(const vector *)(c + m * c_row + v * LANES);
  for (int64_t k = 0; k < depth; k++, panel += VECTORS * LANES, ahead += pace) {
    __builtin_prefetch(ahead, 0, 2);
    for (int m = 0; m < ROWS; m++) {
      const float factor = a.at[m * a.row + k * a.step];
      for (int v = 0; v < VECTORS; v++) sum[m][v] += *(const vector *)(panel + v * LANES) * factor;
    }
  }
  for (int m = 0; m < ROWS; m++)
    for (int v = 0; v < VECTORS; v++) *(vector *)(c + m * c_row + v * LANES) = sum[m][v];
}

// All rows, in tiles as equal as can be, which together fetch the panel that comes next.
template <int VECTORS>
inline void tiles(int64_t rows, int64_t depth, Matrix a, const float *panel, float *c, int64_t c_row,
                  bool add, const float *ahead) {
  int64_t left = (rows + TALL - 1) / TALL;
  const int64_t pace = left > 1 ? VECTORS * LANES / left : 0;
  for (; left; left--) {
    const int64_t height = (rows + left - 1) / left;
    switch (height) {
#define TILE(n)                                                                              \
  case n:                                                                                    \
    if constexpr (n <= TALL) tile<n, VECTORS>(depth, a, panel, c, c_row, add, ahead, pace); \
    break;
      TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8)
#undef TILE
    }
    rows -= height, a.at += height * a.row, c += height * c_row, ahead += depth * pace;
  }
}

// c [rows][columns, padded] = (or +=, with add) a [rows][depth] times `depth` rows, from `first_row`
// on, of one gate of a matrix that was packed with `all_rows`; c and packed are aligned.
inline void multiply(int64_t rows, int64_t depth, int64_t columns, Matrix a, const float *packed,
                     int64_t first_row, int64_t all_rows, float *c, int64_t c_row, bool add) {
  for (int64_t first = 0; first < columns; first += WIDE * LANES) {
    const int64_t width = padded(std::min<int64_t>(WIDE * LANES, columns - first));
    const float *panel = packed + first_row * width, *next = panel + all_rows * width;
    switch (width / LANES) {
      case 1: tiles<1>(rows, depth, a, panel, c + first, c_row, add, next); break;
      case 2: tiles<2>(rows, depth, a, panel, c + first, c_row, add, next); break;
#if defined(__AVX512F__)
      case 3: tiles<3>(rows, depth, a, panel, c + first, c_row, add, next); break;
#endif
    }
    packed += all_rows * width;
  }
}

// As many chains as hide the latency of one; the sum goes somewhere, or compilers leave it all out.
inline int64_t multiply_adds(int64_t rounds) {
  constexpr int CHAINS = 12;
  vector sum[CHAINS], factor = all(0.5f), added = all(0.25f);
  for (int k = 0; k < CHAINS; k++) sum[k] = all(float(k));  // equal ones would be computed once
  for (int64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) sum[k] = sum[k] * factor + added;
  }
  [[maybe_unused]] volatile float sink;
  for (int k = 0; k < CHAINS; k++) sink = sum[k][0];
  return rounds * CHAINS * LANES * 2;
}

}  // namespace
