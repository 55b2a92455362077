// Products of rows with a matrix that lies in panels; compiled once per instruction set, so without
// a guard, after row_products.h.
//
// A panel is 64 columns of a matrix (depth, width), row after row; the last is as narrow as what is
// left of the width, a multiple of 16. What a tile reads then lies close together and stays in the
// first cache while tile after tile of rows passes. A sum is one chain of multiply-adds along the
// matrix, as in row_products.h.

namespace dgm::DGM_ISA {

namespace sampling {

constexpr int64_t kPanel = 64;
constexpr int kPanelVectors = static_cast<int>(kPanel) / kLanes;
// So much of a panel fits the first cache, with the rows it is multiplied with.
constexpr int64_t kPanelDepth = 128;
constexpr int64_t kTileRows = 6;

// Sums wait four cycles for themselves: a few rows take several panels at once. 6 x 4 sums, 4
// vectors and 1 broadcast fill 29 of 32 registers, 6 x 2 fill 15 of 16.
constexpr int most_tile_vectors(int rows) {
  return rows == 1 ? (kMany ? 16 : 8) : rows == 2 ? (kMany ? 8 : 4) : kMany ? 4 : 2;
}

struct Panels {
  const float* data;
  int64_t depth, width;
};

// Rows that lie `pitch` floats apart.
struct Strip {
  float* data;
  int64_t pitch;

  float* row(int64_t r) const { return data + r * pitch; }
};

// A piece of a matrix: `depth` rows `pitch` floats apart, and as far on the next panel.
struct Piece {
  const float* data;
  int64_t depth, pitch, panel;
};

// sums[s][v] += left[s][k] right[k][v], or is set to it where it is not kept. A function of its
// own, so that sums stay in registers.
template <int S, int V>
static __attribute__((noinline)) void add_tile(
    Strip left, const Piece& right, Strip sums, bool kept) {
  const float* row[S];
  Vec sum[S][V];
#pragma GCC unroll 6
  for (int s = 0; s < S; ++s) {
    row[s] = left.row(s);
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[s][v] = kept ? load(sums.row(s) + v * kLanes) : Vec{};
  }

  const float* from = right.data;
  for (int64_t k = 0; k < right.depth; ++k, from += right.pitch) {
    Vec b[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      b[v] = load(from + v / kPanelVectors * right.panel + v % kPanelVectors * kLanes);
    }
#pragma GCC unroll 6
    for (int s = 0; s < S; ++s) {
      const Vec a = broadcast(row[s][k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[s][v] += a * b[v];
    }
  }

#pragma GCC unroll 6
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(sums.row(s) + v * kLanes, sum[s][v]);
  }
}

using AddTile = decltype(&add_tile<1, 1>);

template <int S, int... V>
static AddTile tile_of_vectors(int64_t vectors, std::integer_sequence<int, V...>) {
  static constexpr AddTile table[] = {add_tile<S, V + 1>...};
  return table[vectors - 1];
}

template <int S>
static AddTile tile_of_rows(int64_t vectors) {
  return tile_of_vectors<S>(vectors, std::make_integer_sequence<int, most_tile_vectors(S)>{});
}

static AddTile tile_of(int64_t rows, int64_t vectors) {
  switch (rows) {
    case 1:
      return tile_of_rows<1>(vectors);
    case 2:
      return tile_of_rows<2>(vectors);
    case 3:
      return tile_of_rows<3>(vectors);
    case 4:
      return tile_of_rows<4>(vectors);
    case 5:
      return tile_of_rows<5>(vectors);
    default:
      return tile_of_rows<6>(vectors);
  }
}

// Rows times a piece of so many columns.
static void multiply_piece(
    int64_t rows, Strip left, const Piece& right, int64_t columns, Strip sums, bool kept) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows, vectors = columns / kLanes;
  for (int64_t i = 0, r = 0; i < tiles; ++i) {
    const int64_t count = rows * (i + 1) / tiles - r;
    const int64_t most = most_tile_vectors(static_cast<int>(count));
    for (int64_t v = 0; v < vectors; v += most) {
      const Piece piece{right.data + v * kLanes, right.depth, right.pitch, right.panel};
      const Strip out{sums.row(r) + v * kLanes, sums.pitch};
      tile_of(count, std::min(most, vectors - v))({left.row(r), left.pitch}, piece, out, kept);
    }
    r += count;
  }
}

// Adds rows times a matrix to sums, or sets them to it where they are not kept.
static void multiply(int64_t rows, Strip left, const Panels& right, Strip sums, bool kept) {
  const int64_t vectors = rows > 2 ? kPanelVectors : most_tile_vectors(static_cast<int>(rows));
  const int64_t panels = std::max<int64_t>(1, vectors / kPanelVectors);
  for (int64_t column = 0; column < right.width;) {
    const int64_t rest = right.width - column, whole = std::min(panels, rest / kPanel);
    const int64_t columns = whole > 0 ? whole * kPanel : rest, pitch = std::min(rest, kPanel);
    const float* panel = right.data + column * right.depth;
    for (int64_t k = 0; k < right.depth; k += kPanelDepth) {
      const int64_t depth = std::min(kPanelDepth, right.depth - k);
      const Piece piece{panel + k * pitch, depth, pitch, right.depth * kPanel};
      const Strip out{sums.data + column, sums.pitch};
      multiply_piece(rows, {left.data + k, left.pitch}, piece, columns, out, kept || k > 0);
    }
    column += columns;
  }
}

}  // namespace sampling

}  // namespace dgm::DGM_ISA
