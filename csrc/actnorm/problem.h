// What the passes of activation normalization read and write; plain data, the same for every
// instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dgm::actnorm {

constexpr int64_t kLength = 4096;  // elements of the longest slot, and slots of a task's row
constexpr int64_t kTask = 16384;   // elements that are worth handing out

// The way over (samples, channels, pixels): rows of slots, each slot of one channel.
//
// A line of pixels is a slot, cut where it is longer than kLength. Where lines are short, or the
// channels of a pixel lie side by side, every element is a slot: a row is then a sample or a pixel,
// or many of them where they follow one another without a gap, and the last row may be shorter.
struct Walk {
  bool lines;
  int64_t channels;
  int64_t of_channel;  // slots of a channel that follow one another
  int64_t line;        // elements of a line
  int64_t rows, slots, last_slots;

  int64_t slots_of(int64_t row) const { return row + 1 < rows ? slots : last_slots; }

  int64_t elements_of_row() const { return lines ? channels * line : slots; }

  // Follows from the sizes alone, so that the bits of sums do not depend on the number of threads.
  // Sums of a block take as much memory as two of its rows, or little where slots are lines.
  int64_t rows_of_block() const {
    const int64_t least = lines ? 1 : 16, at_most_256_blocks = (rows + 255) / 256;
    const int64_t worth_a_task = kTask / std::min(elements_of_row(), lines ? kTask : kLength);
    return std::max({least, at_most_256_blocks, worth_a_task});
  }

  int64_t blocks() const { return (rows + rows_of_block() - 1) / rows_of_block(); }

  // Of the slots of a row those that one task takes.
  int64_t slots_of_task() const {
    return lines ? std::max<int64_t>(1, kTask / std::min(line, kLength)) : kLength;
  }

  // Calls f(channel) for each slot of a row, in their order.
  template <typename F>
  void for_each_slot(const F& f) const {
    for (int64_t slot = 0, channel = 0; slot < slots; channel = (channel + 1) % channels) {
      for (int64_t i = 0; i < of_channel; ++i) f(slot++, channel);
    }
  }
};

// A tensor on that way; the channels of a row of single elements are its elements' own.
template <typename T>
struct Elements {
  T* data;  // or null
  int64_t row_stride, channel_stride;

  T* at(int64_t row, int64_t channel, int64_t start) const {
    return data + row * row_stride + channel * channel_stride + start;
  }
};

// Of every channel.
struct Parameters {
  const float *log_scale, *shift;
};

template <typename T>
struct Forward {
  Walk walk;
  Parameters parameters;
  bool inverse;
  Elements<const T> x;
  Elements<T> y;
  bool streams;  // past the caches: the result does not fit them
};

// Sums over all elements of a channel of grad_y and of its product with what the scale multiplies.
struct Sums {
  double *plain, *scaled;  // null where not needed
};

template <typename T>
struct Backward {
  Walk walk;
  Parameters parameters;
  bool inverse;
  Elements<const T> grad_y, x;
  Elements<T> grad_x;
  Sums sums;
  bool streams;
};

// Of some elements of a channel.
struct Moments {
  double count, mean, squared_deviations;

  // Chan, Golub, LeVeque, 1983, equation 2.1.
  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, difference = other.mean - mean;
    mean += difference * (other.count / total);
    squared_deviations +=
        other.squared_deviations + difference * difference * (count * other.count / total);
    count = total;
  }
};

template <typename T>
struct Statistics {
  Walk walk;
  Elements<const T> x;
  Moments* of_channel;
};

}  // namespace dgm::actnorm
