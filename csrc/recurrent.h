// The recurrent loop of one layer, forward and backward: the specification.
//
// All arrays are float32, row-major, allocated by the caller. T timesteps, B batch, H units; G gates:
// 4 for LSTM (i f g o), 3 for GRU with reset_after (z r n), 1 for SimpleRNN. S values are saved a unit
// and step: 4 for LSTM (the gates), 4 for GRU (the gates, and what U made of h for n), 1 for SimpleRNN.
// The equations are those of src/lapse/cells.py; every mask multiplies where the slot of its name does.
//
// What stays outside, as plain matrix products over all steps at once: X W before the loop, and after
// it the gradients of X, W, b and U, which follow from `dz`.
#pragma once
#include <cstdint>

namespace lapse {

enum Cell { LSTM, GRU, SIMPLE_RNN };

// Factor of unit u of sample b at step t: at[t * time + b * batch + u]; no noise where `at` is null.
struct Mask {
  const float *at;
  int64_t time, batch;
};

enum Slot { GATE_0, GATE_1, GATE_2, GATE_3, STATE, KEEP_C, KEEP_H, SLOTS };

struct Loop {
  Cell cell;
  int64_t timesteps, batch, units;
  bool gates_read_apart;   // h has a mask for each gate, not one for all
  Mask read[4];            // the masks of h: the first, or G of them
  Mask slots[SLOTS];       // of the gates in order; s; k_c; k_h
  const int64_t *lengths;  // [B] real steps of each sample, 0 to T, at its start; null: all T
  const int64_t *order;    // [B] with lengths: the samples, the longest first
  const float *weights;    // forward: U [H][G*H]; backward: its transpose [G*H][H]
  const float *bias;       // [G*H] added to what U makes of h, or null; forward only

  const float *h0, *c0;  // [B][H] states before the first step; c is LSTM's
  float *h, *c;          // [T][B][H] states after each step, written by forward
  // [T][B][S*H]; forward finds X W in its first G*H columns, which is the input's part of each gate,
  // and leaves at real steps what backward needs.
  float *saved;

  Mask dh;          // gradient of h from outside the loop, laid out like a mask of all steps; or null
  float *dz;        // [T][B][S*H] gradient of X W, then for GRU that of the saved U h; 0 in padding
  float *dh0, *dc0; // [B][H] in: gradient of the last states; out: of the first
};

// Runs the part-th of `parts` shares of the samples; shares are independent of each other.
using Run = void (*)(const Loop &, const float *packed, int64_t part, int64_t parts);
// How many floats `pack` writes for a matrix [rows][gates * columns], and how it is written.
using PackedSize = int64_t (*)(int64_t rows, int64_t gates, int64_t columns);
using Pack = void (*)(const float *matrix, int64_t rows, int64_t gates, int64_t columns, float *packed);

struct Kernels {
  const char *name;
  Run forward, backward;
  PackedSize packed_size;
  Pack pack;
};

}  // namespace lapse
