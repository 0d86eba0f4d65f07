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

template <int ROWS, int VECTORS>
inline void tile(int64_t depth, Matrix a, const float *panel, float *c, int64_t c_row, bool add) {
  vector sum[ROWS][VECTORS] = {};
  if (add)
    for (int m = 0; m < ROWS; m++)
      for (int v = 0; v < VECTORS; v++) sum[m][v] = *(const vector *)(c + m * c_row + v * LANES);
  for (int64_t k = 0; k < depth; k++, panel += VECTORS * LANES)
    for (int m = 0; m < ROWS; m++) {
      const float factor = a.at[m * a.row + k * a.step];
      for (int v = 0; v < VECTORS; v++) sum[m][v] += *(const vector *)(panel + v * LANES) * factor;
    }
  for (int m = 0; m < ROWS; m++)
    for (int v = 0; v < VECTORS; v++) *(vector *)(c + m * c_row + v * LANES) = sum[m][v];
}

template <int VECTORS>
inline void tiles(int64_t rows, int64_t depth, Matrix a, const float *panel, float *c, int64_t c_row,
                  bool add) {
  for (; rows > 6; rows -= 6, a.at += 6 * a.row, c += 6 * c_row)
    tile<6, VECTORS>(depth, a, panel, c, c_row, add);
  switch (rows) {
    case 6: return tile<6, VECTORS>(depth, a, panel, c, c_row, add);
    case 5: return tile<5, VECTORS>(depth, a, panel, c, c_row, add);
    case 4: return tile<4, VECTORS>(depth, a, panel, c, c_row, add);
    case 3: return tile<3, VECTORS>(depth, a, panel, c, c_row, add);
    case 2: return tile<2, VECTORS>(depth, a, panel, c, c_row, add);
    case 1: return tile<1, VECTORS>(depth, a, panel, c, c_row, add);
  }
}

// c [rows][columns, padded] = (or +=, with add) a [rows][depth] times `depth` rows, from `first_row`
// on, of one gate of a matrix that was packed with `all_rows`; c and packed are aligned.
inline void multiply(int64_t rows, int64_t depth, int64_t columns, Matrix a, const float *packed,
                     int64_t first_row, int64_t all_rows, float *c, int64_t c_row, bool add) {
  for (int64_t first = 0; first < columns; first += WIDE * LANES) {
    const int64_t width = padded(std::min<int64_t>(WIDE * LANES, columns - first));
    const float *panel = packed + first_row * width;
    switch (width / LANES) {
      case 1: tiles<1>(rows, depth, a, panel, c + first, c_row, add); break;
      case 2: tiles<2>(rows, depth, a, panel, c + first, c_row, add); break;
#if defined(__AVX512F__)
      case 3: tiles<3>(rows, depth, a, panel, c + first, c_row, add); break;
      case 4: tiles<4>(rows, depth, a, panel, c + first, c_row, add); break;
#endif
    }
    packed += all_rows * width;
  }
}

}  // namespace
