// Some images drawn by a block of threads, which take them from pixel to pixel together.
//
// `Block` says which thread this is and how many there are, and waits for all of them: a block of a
// GPU's, or threads of a CPU, on which this is tested.
//
// A step waits before it looks at anything, and between its product and its sums; a draw waits for
// its softmax, and a pixel at its end, before pointers are written anew.
#pragma once

#include "common/block_draws.h"
#include "common/block_noise.h"
#include "common/block_products.h"
#include "pixel_sampler/block_memory.h"
#include "pixel_sampler/block_picks.h"
#include "pixel_sampler/problem.h"

namespace dgm::pixel_sampler {

// S images from `first` on, or as many as there are; the number of threads is a multiple of S and
// of kPairs.
template <int S, typename Block>
class Group {
 public:
  DGM_HOST_DEVICE Group(const Draw& draw, const Block& block, int64_t first)
      : d(draw),
        net(draw.network),
        n(draw.network.sizes),
        block(block),
        at_(n, S),
        first_(first),
        count_(static_cast<int>(draw.samples - first < S ? draw.samples - first : S)),
        width_(static_cast<int>(draw.width)),
        turns_(static_cast<int>(n.turns)),
        thread_(block.thread()),
        threads_(block.threads()),
        team_(threads_ / S),
        s_(thread_ / team_),
        lane_(thread_ % team_) {}

  DGM_HOST_DEVICE void run() {
    copy_plan();
    block.sync();
    for (int row = static_cast<int>(d.done); row < d.last; ++row) {
      begin_row(row);
      for (int column = 0; column < width_; ++column) draw_pixel(row, column);
    }
  }

 private:
  // What a thread loads ahead of the product of a turn.
  struct Ahead {
    Cut cut;
    Task task;
    const float* weight;
    Chunk chunk;
  };

  template <typename T>
  DGM_HOST_DEVICE T* shared(int at) const {
    return reinterpret_cast<T*>(block.shared() + at);
  }
  DGM_HOST_DEVICE const PlaceOf<int>& place(int value) const {
    return shared<PlaceOf<int>>(at_.places)[value];
  }
  DGM_HOST_DEVICE const WorkOf<int>& work(int step) const {
    return shared<WorkOf<int>>(at_.works)[step];
  }
  DGM_HOST_DEVICE const TapOf<int>& tap(int i) const { return shared<TapOf<int>>(at_.taps)[i]; }
  DGM_HOST_DEVICE const Turn& turn(int k) const { return shared<Turn>(at_.turns)[k]; }
  DGM_HOST_DEVICE Spots* spots() const { return shared<Spots>(at_.spots); }
  DGM_HOST_DEVICE const float** seen() const { return shared<const float*>(at_.seen); }
  DGM_HOST_DEVICE float* partial() const { return shared<float>(at_.partial); }

  DGM_HOST_DEVICE void copy_plan() {
    copy(net.places, n.values, at_.places);
    copy(net.works, n.steps, at_.works);
    copy(net.taps, n.taps + 1, at_.taps);
    for (int i = thread_; i < kRows; i += threads_) shared<float>(at_.zeros)[i] = 0.0f;
    for (int i = thread_; i < n.steps; i += threads_) {
      if (!net.works[i].ahead) shared<Turn>(at_.turns)[place_of_turn(net, i)] = turn_of(net, i);
    }
  }

  template <typename Row>
  DGM_HOST_DEVICE void copy(const Row* table, int64_t rows, int to) {
    const int64_t* from = reinterpret_cast<const int64_t*>(table);
    const int count = static_cast<int>(rows * (sizeof(Row) / sizeof(int64_t)));
    for (int i = thread_; i < count; i += threads_) shared<int>(to)[i] = static_cast<int>(from[i]);
  }

  // Where a value of an image lies at a pixel.
  DGM_HOST_DEVICE float* value_at(int value, int row, int column, int s) const {
    const PlaceOf<int>& p = place(value);
    if (p.where == kInPixel) return shared<float>(at_.values) + s * n.pixel + p.offset;
    const int64_t spot = static_cast<int64_t>(column >> p.shift) * p.floats + p.offset;
    if (p.where == kInRow) return d.row_values + (first_ + s) * n.row + spot;
    return d.rows + (first_ + s) * d.state + p.slot(row) * p.columns * p.floats + spot;
  }

  // Where a tap finds its input, or null where there is none.
  DGM_HOST_DEVICE const float* input_at(const TapOf<int>& tap, int row, int column, int s) const {
    const PlaceOf<int>& p = place(tap.source);
    const int r = row + tap.down, c = column + tap.right;
    const bool is_there = s < count_ && r >= 0 && c >= 0 && c < width_ && p.has(r) && p.has(c);
    return is_there ? value_at(tap.source, r, c, s) : nullptr;
  }

  // Of a sum that is only begun, `whole` is false.
  DGM_HOST_DEVICE Spots
  spots_at(const WorkOf<int>& w, int row, int column, int s, bool resumed, bool whole) const {
    if (s >= count_) return {};
    float* out = value_at(w.out, row, column, s);
    const float* add = whole && w.add >= 0 ? value_at(w.add, row, column, s) : nullptr;
    if (w.kind != kAffine) return {value_at(w.source, row, column, s), add, out};
    const float* bias = d.condition + (first_ + s) * d.condition_step + w.bias;
    return {resumed ? out : bias, add, out};
  }

  // What depends on rows above alone, and the beginning of sums that see them.
  DGM_HOST_DEVICE void begin_row(int row) {
    for (int i = 0; i < n.steps; ++i) {
      const WorkOf<int>& w = work(i);
      if (!place(w.out).has(row) || !(w.ahead || w.begun())) continue;
      w.kind == kAffine ? multiply_row(w, row) : map_row(w, row);
    }
  }

  // Columns and images of a row, in pairs: a thread has one of every kPairs of them.
  DGM_HOST_DEVICE int pairs(const WorkOf<int>& w) const { return place(w.out).columns * S; }
  DGM_HOST_DEVICE Spots pair(const WorkOf<int>& w, int row, int pair) const {
    const int column = (pair / S) << place(w.out).shift;
    return pair < pairs(w) ? spots_at(w, row, column, pair % S, false, w.ahead) : Spots{};
  }

  DGM_HOST_DEVICE void map_row(const WorkOf<int>& w, int row) {
    const int team = threads_ / kPairs;
    block.sync();
    for (int i = thread_ / team; i < pairs(w); i += kPairs) {
      map(w, pair(w, row, i), thread_ % team, team);
    }
  }

  DGM_HOST_DEVICE void multiply_row(const WorkOf<int>& w, int row) {
    const int team = threads_ / kPairs, q = thread_ / team;
    const Cut cut((tap(w.above_end).piece - tap(w.above).piece) * kRows, place(w.out).floats);
    const float per_out = 1.0f / static_cast<float>(cut.outs);
    for (int begin = 0; begin < pairs(w); begin += kPairs) {
      const Spots own = pair(w, row, begin + q);
      look_up_pairs(w, row, begin);
      const Ahead ahead = load_ahead(cut, per_out, net.weights + tap(w.above).matrix);
      block.sync();
      multiply<kPairs>(ahead, w.above, spots(), seen());
      block.sync();
      finish<kPairs>(w, cut, own.out, q, thread_ % team, team, w.ahead);
    }
  }

  DGM_HOST_DEVICE void look_up_pairs(const WorkOf<int>& w, int row, int begin) {
    for (int q = thread_; q < kPairs; q += threads_) spots()[q] = pair(w, row, begin + q);
    const int taps = w.above_end - w.above;
    for (int i = thread_; i < taps * kPairs; i += threads_) {
      const int p = begin + i % kPairs, column = (p / S) << place(w.out).shift;
      seen()[i] = input_at(tap(w.above + i / kPairs), row, column, p % S);
    }
  }

  // A pixel, whether some image has to draw it or not.
  DGM_HOST_DEVICE void draw_pixel(int row, int column) {
    const bool given = is_given(row, column);
    look_up_pixel(row, column);
    int k = next(0, row, column, given);
    Ahead ahead = load_turn(k, row, column, given);
    while (k < turns_) {
      const Turn& t = turn(k);
      const WorkOf<int>& w = work(t.work);
      const Spots* all = spots() + k * S;
      k = next(k + 1, row, column, given);
      block.sync();
      if (t.kind == kDraw) {
        draw(w, all[s_], row, column, given);
      } else if (t.kind != kAffine) {
        map(w, all[s_], lane_, team_);
      } else {
        multiply<S>(ahead, t.own, all, seen() + (t.own - static_cast<int>(n.above)) * S);
        ahead = load_turn(k, row, column, given);
        block.sync();
        finish<S>(w, t.cut, all[s_].out, s_, lane_, team_, true);
      }
    }
    block.sync();
  }

  DGM_HOST_DEVICE bool is_given(int row, int column) const {
    for (int s = 0; s < count_; ++s) {
      if (!d.given[pixel(row, column, s)]) return false;
    }
    return true;
  }

  DGM_HOST_DEVICE int64_t pixel(int row, int column, int s) const {
    return ((first_ + s) * d.height + row) * d.width + column;
  }

  // Every step's and tap's pointers at a pixel.
  DGM_HOST_DEVICE void look_up_pixel(int row, int column) {
    for (int i = thread_; i < turns_ * S; i += threads_) {
      const WorkOf<int>& w = work(turn(i / S).work);
      spots()[i] = spots_at(w, row, column, i % S, w.begun(), true);
    }
    const int above = static_cast<int>(n.above), own = static_cast<int>(n.taps) - above;
    for (int i = thread_; i < own * S; i += threads_) {
      seen()[i] = input_at(tap(above + i / S), row, column, i % S);
    }
  }

  // The next turn from k on whose value exists at a pixel, and is looked at there.
  DGM_HOST_DEVICE int next(int k, int row, int column, bool given) const {
    for (; k < turns_; ++k) {
      const Turn& t = turn(k);
      const bool idle = given && t.for_draw && d.parameters == nullptr;
      if (!idle && ((row | column) & (t.stride - 1)) == 0) break;
    }
    return k;
  }

  // Weights of the first product from turn k on.
  DGM_HOST_DEVICE Ahead load_turn(int k, int row, int column, bool given) const {
    while (k < turns_ && turn(k).kind != kAffine) k = next(k + 1, row, column, given);
    if (k == turns_) return load_ahead(Cut(0, kQuad), 1.0f / kQuad, net.weights);
    return load_ahead(turn(k).cut, turn(k).per_out, net.weights + turn(k).matrix);
  }

  DGM_HOST_DEVICE Ahead load_ahead(const Cut& cut, float per_out, const float* weight) const {
    const Task task(cut, thread_, per_out);
    return {cut, task, weight, task.piece(cut, weight).chunk(0)};
  }

  // Leaves sums of parts of a matrix's rows, the first of which begins with what there is to add.
  template <int N>
  DGM_HOST_DEVICE void multiply(
      const Ahead& ahead, int first, const Spots* spots, const float** seen) const {
    const Cut& cut = ahead.cut;
    Chunk chunk = ahead.chunk;
    for (Task task = ahead.task; task.part < cut.parts;) {
      Sums<N> sums{};
      if (task.part == 0) begin<N>(spots, task.column, sums);
      const Piece piece = task.piece(cut, ahead.weight);
      int t = first, i = tap(first).piece + task.part * (cut.rows / kRows);
      for (int row = 0; row < piece.rows; row += kRows, ++i) {
        const Chunk next = piece.chunk(row + kRows);
        while (tap(t + 1).piece <= i) ++t;
        const int from = (i - tap(t).piece) * kRows;
        sums.add(chunk, [&](int q) {
          const float* inputs = seen[(t - first) * N + q];
          return inputs == nullptr ? shared<float>(at_.zeros) : inputs + from;
        });
        chunk = next;
      }
#pragma unroll
      for (int q = 0; q < N; ++q) {
        store(partial() + (task.part * N + q) * cut.outs + task.column, sums.of[q]);
      }
      task.skip(cut, threads_);
      if (task.part < cut.parts) chunk = task.piece(cut, ahead.weight).chunk(0);
    }
  }

  template <int N>
  DGM_HOST_DEVICE static void begin(const Spots* spots, int column, Sums<N>& sums) {
#pragma unroll
    for (int q = 0; q < N; ++q) {
      if (spots[q].from != nullptr) sums.of[q] = load(spots[q].from + column);
      if (spots[q].add == nullptr) continue;
      const Quad add = load(spots[q].add + column);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) sums.of[q].of[j] += add.of[j];
    }
  }

  // Adds the sums of parts of pair or image q, if it is there.
  template <int N>
  DGM_HOST_DEVICE void finish(
      const WorkOf<int>& w, const Cut& cut, float* out, int q, int lane, int team, bool whole) {
    if (out == nullptr) return;
    for (int i = lane; i < cut.outs; i += team) {
      float sum = 0.0f;
#pragma unroll 4
      for (int part = 0; part < cut.parts; ++part) sum += partial()[(part * N + q) * cut.outs + i];
      if (whole && w.then != kAffine) sum = w.then == kRelu ? relu(sum) : elu(sum);
      out[i] = sum;
    }
  }

  DGM_HOST_DEVICE void map(const WorkOf<int>& w, const Spots& own, int lane, int team) {
    if (own.out == nullptr) return;
    const int floats = place(w.source).floats, outs = place(w.out).floats;
    for (int i = lane; i < outs; i += team) {
      const float y = mapped(w.kind, own.from, floats, i);
      own.out[i] = own.add == nullptr ? y : y + own.add[i];
    }
  }

  DGM_HOST_DEVICE void draw(
      const WorkOf<int>& w, const Spots& own, int row, int column, bool given) {
    const int64_t spot = own.out == nullptr ? 0 : pixel(row, column, s_);
    const int64_t feature = spot * net.draws + w.group;
    for (int i = lane_; own.out != nullptr && d.parameters != nullptr && i < d.output.outputs;
         i += team_) {
      d.parameters[feature * d.output.outputs + i] = own.from[i];
    }
    if (!given) weigh(own);
    if (lane_ != 0 || own.out == nullptr) return;
    if (!d.given[spot]) {
      float levels[3];
      const int64_t place = static_cast<int64_t>(row * width_ + column) * net.draws + w.group;
      const auto uniform = [&](int k) { return noise_at(d.noise, first_ + s_, place, k); };
      pick(own.from, uniform, levels);
      for (int i = 0; i < d.output.at_once; ++i) *level(w, row, column, i) = levels[i];
    }
    reveal(w, own, row, column);
  }

  // Of what one place is drawn of.
  DGM_HOST_DEVICE Softmax softmax(const float* logits) const {
    return {
        logits, logits_of(d.output), partial() + s_ * n.own_sums,
        shared<float>(at_.largest) + s_ * kSegments, shared<double>(at_.totals) + s_ * kSegments};
  }

  DGM_HOST_DEVICE void weigh(const Spots& own) {
    if (logits_of(d.output) == 0) return;
    // Threads of an image that is not there have no segment.
    const int lane = own.out == nullptr ? kSegments : lane_;
    softmax(own.from).make(d.output.filters, lane, team_, [&] { block.sync(); });
  }

  template <typename Uniform>
  DGM_HOST_DEVICE void pick(const float* parameters, const Uniform& uniform, float* levels) const {
    const Output& o = d.output;
    if (o.distribution == Distribution::bernoulli) {
      levels[0] = binary(parameters[0], o.filters.temperature, uniform(0));
      return;
    }
    const int k = softmax(parameters).place(o.filters, uniform(0));
    if (o.distribution == Distribution::categorical) {
      levels[0] = static_cast<float>(k);
    } else {
      levels_of_component(o, parameters, k, uniform, levels);
    }
  }

  // Puts levels where the network sees them, and zeros beside.
  DGM_HOST_DEVICE void reveal(const WorkOf<int>& w, const Spots& own, int row, int column) const {
    const Output& o = d.output;
    for (int i = 0; i < place(w.out).floats; ++i) own.out[i] = 0.0f;
    for (int i = 0; i < o.at_once; ++i) {
      own.out[i] = encode(*level(w, row, column, i), o.levels);
    }
    if (o.ones) own.out[o.at_once] = 1.0f;
  }

  DGM_HOST_DEVICE float* level(const WorkOf<int>& w, int row, int column, int channel) const {
    const int64_t channels = net.draws * d.output.at_once;
    const int64_t image = (first_ + s_) * channels + w.group * d.output.at_once + channel;
    return d.images + (image * d.height + row) * d.width + column;
  }

  const Draw& d;
  const Network& net;
  const Sizes& n;
  const Block& block;
  const Shared at_;
  const int64_t first_;
  const int count_, width_, turns_, thread_, threads_, team_, s_, lane_;
};

}  // namespace dgm::pixel_sampler
