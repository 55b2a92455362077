// Images drawn pixel by pixel; compiled once per instruction set, so without a guard.

#include "pixel_sampler/picks.h"

namespace dgm::DGM_ISA {

namespace pixel_sampling {

using dgm::pixel_sampler::Draw;
using dgm::pixel_sampler::Network;
using dgm::pixel_sampler::Place;
using dgm::pixel_sampler::Tap;
using dgm::pixel_sampler::Work;

// Columns of a row.
struct Span {
  int64_t first, last;
};

// One row of a value, of all samples of a group.
struct View {
  float* data;
  int64_t sample, column, shift;

  float* at(int64_t s, int64_t c) const { return data + s * sample + (c >> shift) * column; }
};

// Some samples, which are drawn together and share each load of a weight.
class Group {
 public:
  Group(const Draw& draw, int64_t first, int64_t count)
      : d(draw),
        net(draw.network),
        first(first),
        count(count),
        now_(net.sizes.values),
        in_row_(count * net.sizes.row),
        in_run_(count * net.sizes.pixel * draw.width),
        in_pixel_(count * net.sizes.pixel),
        scratch_(draw.output.outputs + kLanes) {}

  void run() {
    for (int64_t row = d.done; row < d.last; ++row) {
      begin_row(row);
      for (Span span{0, 0}; span.first < d.width; span.first = span.last) {
        const bool given = is_given(row, span.first);
        span.last = span.first + 1;
        while (given && span.last < d.width && is_given(row, span.last)) ++span.last;
        given ? go_through(row, span) : draw_pixel(row, span);
      }
    }
  }

 private:
  bool is_given(int64_t row, int64_t c) const {
    for (int64_t s = 0; s < count; ++s) {
      if (!d.given[((first + s) * d.height + row) * d.width + c]) return false;
    }
    return true;
  }

  View view(int64_t value, int64_t row) const {
    const Place& p = net.places[value];
    if (p.where == pixel_sampler::kInRow) {
      return {in_row_.data() + p.offset * count, p.floats, count * p.floats, p.shift};
    }
    float* data = d.rows + first * d.state + p.offset + p.slot(row) * p.columns * p.floats;
    return {data, d.state, p.floats, p.shift};
  }

  // Values that only their own pixel sees lie close together, but of a run side by side.
  void keep_pixels(bool run) {
    for (int64_t v = 0; v < net.sizes.values; ++v) {
      const Place& p = net.places[v];
      if (p.where != pixel_sampler::kInPixel) continue;
      float* data =
          run ? in_run_.data() + p.offset * count * d.width : in_pixel_.data() + p.offset * count;
      now_[v] = {data, p.floats, run ? count * p.floats : 0, p.shift};
    }
    is_run_ = run;
  }

  // What depends on rows above alone, and the beginning of sums that see them.
  void begin_row(int64_t row) {
    for (int64_t v = 0; v < net.sizes.values; ++v) {
      if (net.places[v].where != pixel_sampler::kInPixel) now_[v] = view(v, row);
    }
    keep_pixels(false);
    const Span all{0, d.width};
    for (int64_t i = 0; i < net.sizes.steps; ++i) {
      const Work& work = net.works[i];
      if (!net.places[work.out].has(row)) continue;
      if (work.ahead) {
        make(work, row, all);
      } else if (work.begun()) {
        begin(work, row, all);
      }
    }
  }

  // A pixel that some sample has to draw, one group of its channels after another.
  void draw_pixel(int64_t row, Span span) {
    if (is_run_) keep_pixels(false);
    for (int64_t group = 0; group < net.draws; ++group) {
      for (int64_t i = 0; i < net.sizes.steps; ++i) {
        const Work& work = net.works[i];
        if (work.group != group || work.ahead) continue;
        if (work.kind == pixel_sampler::kDraw) {
          draw(work, row, span, false);
        } else if (net.places[work.out].has(row)) {
          make(work, row, span);
        }
      }
    }
  }

  // Pixels that are given to all samples, layer by layer.
  void go_through(int64_t row, Span span) {
    if (!is_run_) keep_pixels(true);
    for (int64_t i = 0; i < net.sizes.steps; ++i) {
      if (net.works[i].kind == pixel_sampler::kDraw) reveal(net.works[i], row, span);
    }
    for (int64_t i = 0; i < net.sizes.steps; ++i) {
      const Work& work = net.works[i];
      if (work.ahead || (work.for_draw && d.parameters == nullptr)) continue;
      if (work.kind == pixel_sampler::kDraw) {
        draw(work, row, span, true);
      } else if (net.places[work.out].has(row)) {
        make(work, row, span);
      }
    }
  }

  // Calls f(sample, column) where a value exists.
  template <typename F>
  DGM_INLINE_MEMBER void for_each(const Place& place, Span span, const F& f) const {
    const int64_t stride = place.stride(), begin = (span.first + stride - 1) & -stride;
    for (int64_t c = begin; c < span.last; c += stride) {
      for (int64_t s = 0; s < count; ++s) f(s, c);
    }
  }

  void make(const Work& work, int64_t row, Span span) {
    const View out = now_[work.out];
    const Place& place = net.places[work.out];
    if (work.kind == pixel_sampler::kAffine) {
      if (work.ahead || !work.begun()) begin(work, row, span);
    } else {
      const View from = now_[work.source];
      const int64_t floats = net.places[work.source].floats;
      for_each(place, span, [&](int64_t s, int64_t c) {
        map(work.kind, from.at(s, c), floats, out.at(s, c));
      });
    }
    if (work.add >= 0) {
      const View added = now_[work.add];
      for_each(place, span, [&](int64_t s, int64_t c) {
        add(added.at(s, c), place.floats, out.at(s, c));
      });
    }
    multiply_taps(work, work.own, work.own_end, row, span);
    if (work.then != pixel_sampler::kAffine) {
      for_each(place, span, [&](int64_t s, int64_t c) {
        map(work.then, out.at(s, c), place.floats, out.at(s, c));
      });
    }
  }

  void begin(const Work& work, int64_t row, Span span) {
    const View out = now_[work.out];
    const Place& place = net.places[work.out];
    for_each(place, span, [&](int64_t s, int64_t c) {
      copy(d.condition + (first + s) * d.condition_step + work.bias, place.floats, out.at(s, c));
    });
    multiply_taps(work, work.above, work.above_end, row, span);
  }

  // Each matrix is used for all samples and columns before the next.
  void multiply_taps(const Work& work, int64_t begin, int64_t end, int64_t row, Span span) {
    const View out = now_[work.out];
    const Place& place = net.places[work.out];
    for (int64_t t = begin; t < end; ++t) {
      const Tap& tap = net.taps[t];
      const Place& source = net.places[tap.source];
      const int64_t above = row + tap.down;
      if (above < 0 || !source.has(above)) continue;

      const View from = tap.down == 0 ? now_[tap.source] : view(tap.source, above);
      const float* matrix = net.weights + tap.matrix;
      Rows rows;
      for_each(place, span, [&](int64_t s, int64_t c) {
        const int64_t at = c + tap.right;
        if (at < 0 || at >= d.width || !source.has(at)) return;
        rows.add(from.at(s, at), out.at(s, c));
        if (rows.count == Rows::kMost) {
          multiply(rows, matrix, source.depth, place.floats);
          rows.count = 0;
        }
      });
      multiply(rows, matrix, source.depth, place.floats);
    }
  }

  void draw(const Work& work, int64_t row, Span span, bool given) {
    const Output& o = d.output;
    const View from = now_[work.source];
    for_each(net.places[work.out], span, [&](int64_t s, int64_t c) {
      const int64_t pixel = ((first + s) * d.height + row) * d.width + c;
      const int64_t feature = pixel * net.draws + work.group;
      float* parameters = from.at(s, c);
      for (int64_t i = 0; d.parameters != nullptr && i < o.outputs; ++i) {
        d.parameters[feature * o.outputs + i] = parameters[i];
      }
      if (given || d.given[pixel]) return;
      float levels[3];
      pick(o, parameters, d.noise.given + feature * d.noise.each, scratch_.data(), levels);
      for (int64_t i = 0; i < o.at_once; ++i) *level(work, s, i, row, c) = levels[i];
    });
    if (!given) reveal(work, row, span);
  }

  // Puts levels where the network sees them.
  void reveal(const Work& work, int64_t row, Span span) {
    const Output& o = d.output;
    const View out = now_[work.out];
    for_each(net.places[work.out], span, [&](int64_t s, int64_t c) {
      float* x = out.at(s, c);
      for (int64_t i = 0; i < o.at_once; ++i) x[i] = encode(*level(work, s, i, row, c), o.levels);
      if (o.ones) x[o.at_once] = 1.0f;
    });
  }

  float* level(const Work& work, int64_t s, int64_t channel, int64_t row, int64_t c) const {
    const int64_t channels = net.draws * d.output.at_once;
    const int64_t image = (first + s) * channels + work.group * d.output.at_once + channel;
    return d.images + (image * d.height + row) * d.width + c;
  }

  const Draw& d;
  const Network& net;
  const int64_t first, count;
  std::vector<View> now_;  // of each value the row that is being drawn
  bool is_run_ = false;
  Buffer in_row_, in_run_, in_pixel_, scratch_;
};

static void draw(const Draw& draw, int64_t threads) {
  // Twice the rows of a product, because a large network's weights come from memory each time.
  constexpr int64_t kMost = 2 * Rows::kMost;
  const int64_t pixels = draw.samples * (draw.last - draw.done) * draw.width;
  const int64_t work = pixels * draw.multiply_adds;
  run_groups(draw.samples, kMost, threads, work, [&](int64_t first, int64_t count) {
    Group(draw, first, count).run();
  });
}

}  // namespace pixel_sampling

}  // namespace dgm::DGM_ISA
