// Matrix products on one thread, for float32 and for bfloat16 with float32 sums, and the layout of
// their operands. A right-hand side B (K × N) is packed in panels of 64 columns; for bfloat16 two
// rows of a panel are interleaved, as matrix units want them. Products run on torch's brgemm, float32
// on tiles where there are some (tiles.h): an operand then holds each number as three pieces. Where
// torch has no brgemm they run on plain vectors (lanes.h), panels have 16 columns and all operands
// are float32.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <vector>

#include "lanes.h"
#include "tiles.h"
#include "vectors.h"

namespace plait {

#ifdef PLAIT_LANES
constexpr bool kLanesOnly = true;
#else
constexpr bool kLanesOnly = false;
#endif
constexpr int64_t kPanel = kLanesOnly ? 16 : 64;
// K and N of every product must be multiples of this, M of 16.
constexpr int64_t kGranule = 32;
// Rows of a power of two of bytes share cache sets, so buffers are this much wider than their rows.
constexpr int64_t kGapBytes = 128;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// From one row of `columns` numbers to the next in a buffer of our own.
template <typename T>
constexpr int64_t stride_of(int64_t columns) {
  return columns + kGapBytes / int64_t(sizeof(T));
}

#ifdef PLAIT_TILES
template <typename T>
constexpr bool kSplit = std::is_same_v<T, float>;
#else
template <typename T>
constexpr bool kSplit = false;
#endif
template <typename T>
constexpr int kPieces = kSplit<T> ? 3 : 1;
// What a number consists of as an operand.
template <typename T>
using Piece = std::conditional_t<kSplit<T>, BFloat16, std::conditional_t<kLanesOnly, float, T>>;
// A unit is 32 bits of one column: one float, or two consecutive rows in bfloat16.
template <typename T>
constexpr int64_t kUnit = 4 / int64_t(sizeof(Piece<T>));

struct Split {
  BFloat16 pieces[3];
};
// What a number of a packed right-hand side takes.
template <typename T>
using Packed = std::conditional_t<kSplit<T>, Split, Piece<T>>;

// The pieces of sixteen floats as floats' bit patterns, largest piece first; exact. What is no
// number, or infinite, comes out as pieces whose sum is no number.
[[gnu::always_inline]] inline void split16(Floats x, Units (&pieces)[3]) {
  for (int i = 0; i < 2; ++i) {
    pieces[i] = (bits(x) + 0x8000u) & 0xffff0000u;
    x -= floats(pieces[i]);
  }
  pieces[2] = bits(x) & 0xffff0000u;
}

// Sixteen floats rounded to bfloat16, as floats' bit patterns.
[[gnu::always_inline]] inline Units rounded16(const float* x) {
  return widened(halves16(load16(x))) << 16;
}
[[gnu::always_inline]] inline Units rounded16(const BFloat16* x) {
  return bits(load16(x));
}

// Units of sixteen columns from two consecutive rows (for float from one, `odd` unused), by piece;
// a row that is null is zero.
template <typename T, typename From>
[[gnu::always_inline]] inline void units_across(const From* even, const From* odd,
                                                Units (&out)[kPieces<T>]) {
  if constexpr (kUnit<T> == 1) {
    out[0] = even ? bits(load16(even)) : Units{};
  } else if constexpr (kSplit<T>) {
    Units low[3], high[3];
    split16(even ? load16(even) : Floats{}, low);
    split16(odd ? load16(odd) : Floats{}, high);
    for (int p = 0; p < 3; ++p) out[p] = low[p] >> 16 | high[p];
  } else {
    out[0] = (even ? rounded16(even) >> 16 : Units{}) | (odd ? rounded16(odd) : Units{});
  }
}

// Two halves side by side, without a way through memory that would wait for both to be written.
[[gnu::always_inline]] inline Units joined(Halves low, Halves high) {
#ifdef __AVX512F__
  return Units(_mm512_inserti64x4(_mm512_castsi256_si512(__m256i(low)), __m256i(high), 1));
#else
  Halves both[2] = {low, high};
  return read<Units>(both);
#endif
}

// 16 units that follow each other along a row, by piece.
template <typename T, typename From>
[[gnu::always_inline]] inline void units_along(const From* from, Units (&out)[kPieces<T>]) {
  if constexpr (std::is_same_v<Piece<T>, From>) {
    out[0] = read<Units>(from);
  } else if constexpr (kUnit<T> == 1) {
    out[0] = bits(load16(from));
  } else if constexpr (kSplit<T>) {
    Units low[3], high[3];
    split16(load16(from), low);
    split16(load16(from + 16), high);
    for (int p = 0; p < 3; ++p) {
      out[p] = joined(narrowed(low[p] >> 16),
                      narrowed(high[p] >> 16));
    }
  } else {
    out[0] = joined(halves16(load16(from)), halves16(load16(from + 16)));
  }
}

// Packs B(k, n) = rows(k)[n]; rows from K on, up to the next multiple of 32, are zero.
template <typename T, typename Source>
void pack(Source rows, int64_t K, int64_t N, Packed<T>* out) {
  int64_t depth = round_up(K, kGranule);
  for (int64_t j = 0; j < N; j += kPanel) {
    int64_t width = std::min(kPanel, N - j), piece = depth / kUnit<T> * width;
    auto* panel = reinterpret_cast<uint32_t*>(out + j * depth);
    for (int64_t k = 0; k < depth; k += kUnit<T>) {
      auto* even = k < K ? rows(k) + j : nullptr;
      auto* odd = k + 1 < K ? rows(k + 1) + j : nullptr;
      for (int64_t n = 0; n < width; n += 16) {
        Units units[kPieces<T>];
        units_across<T>(even ? even + n : even, odd ? odd + n : odd, units);
        for (int p = 0; p < kPieces<T>; ++p) {
          write(panel + p * piece + k / kUnit<T> * width + n, units[p]);
        }
      }
    }
  }
}

// Packs B(k, n) = from[n * stride + k]: a matrix (N × K) on the right-hand side, transposed; without a
// stride its rows follow each other.
template <typename T, typename From>
void pack_transposed(const From* from, int64_t K, int64_t N, Packed<T>* out, int64_t stride = 0) {
  if (!stride) stride = K;
  constexpr int64_t step = 16 * kUnit<T>;
  for (int64_t j = 0; j < N; j += kPanel) {
    int64_t width = std::min(kPanel, N - j), piece = K / kUnit<T> * width;
    auto* panel = reinterpret_cast<uint32_t*>(out + j * K);
    for (int64_t n = 0; n < width; n += 16) {
      for (int64_t k = 0; k < K; k += step) {
        Units v[kPieces<T>][16];
        for (int64_t i = 0; i < 16; ++i) {
          Units units[kPieces<T>];
          units_along<T>(from + (j + n + i) * stride + k, units);
          for (int p = 0; p < kPieces<T>; ++p) v[p][i] = units[p];
        }
        for (int p = 0; p < kPieces<T>; ++p) {
          transpose(v[p]);
          for (int64_t i = 0; i < 16; ++i) {
            write(panel + p * piece + (k / kUnit<T> + i) * width + n, v[p][i]);
          }
        }
      }
    }
  }
}

// Memory of one thread that lives as long as the thread: no page faults after the first step.
template <typename T>
T* scratch(int slot, int64_t count) {
  thread_local std::vector<std::vector<char>> slots(17);
  auto& bytes = slots[size_t(slot)];
  size_t needed = size_t(count) * sizeof(T) + 64;
  if (bytes.size() < needed) bytes.resize(needed);
  auto address = reinterpret_cast<uintptr_t>(bytes.data());
  return reinterpret_cast<T*>((address + 63) / 64 * 64);
}

// A left-hand side: rows of `columns` numbers, a multiple of 32.
template <typename T>
struct Rows {
  Piece<T>* data;
  int64_t columns;

  static Rows in_scratch(int slot, int64_t rows, int64_t columns) {
    return {scratch<Piece<T>>(slot, rows * stride_of<Piece<T>>(kPieces<T> * columns)), columns};
  }

  int64_t stride() const { return stride_of<Piece<T>>(kPieces<T> * columns); }
  Rows from(int64_t row) const { return {data + row * stride(), columns}; }

  [[gnu::always_inline]] void put(int64_t row, int64_t column, Floats x) const {
    Piece<T>* to = data + row * stride() + column;
    if constexpr (kSplit<T>) {
      Units pieces[3];
      split16(x, pieces);
      for (int p = 0; p < 3; ++p) {
        Halves halves = narrowed(pieces[p] >> 16);
        std::memcpy(to + p * columns, &halves, 32);
      }
    } else {
      store16(to, x);
    }
  }

  template <typename From>
  void copy(int64_t row, const From* from) const {
    if constexpr (std::is_same_v<From, Piece<T>>) {
      copy_row(data + row * stride(), from, columns);
    } else {
      for (int64_t i = 0; i < columns; i += 16) put(row, i, load16(from + i));
    }
  }

  // Zero from column `first` up to `last`, both multiples of 16.
  void clear(int64_t row, int64_t first, int64_t last) const {
    for (int p = 0; p < kPieces<T>; ++p) {
      Piece<T>* to = data + row * stride() + p * columns;
      std::memset(to + first, 0, size_t(last - first) * sizeof(Piece<T>));
    }
  }
};

// out(n, first + k) = rows(k)[n] for k < K and n < N; k from K on, up to the next multiple of 32, is
// zero.
template <typename T, typename Source>
void transpose_rows(Source rows, int64_t K, int64_t N, Rows<T> out, int64_t first = 0) {
  constexpr int64_t step = 16 * kUnit<T>;
  for (int64_t k = 0; k < round_up(K, kGranule); k += step) {
    for (int64_t n = 0; n < N; n += 16) {
      Units v[kPieces<T>][16];
      for (int64_t i = 0; i < 16; ++i) {
        int64_t row = k + i * kUnit<T>;
        Units units[kPieces<T>];
        auto* even = row < K ? rows(row) + n : nullptr;
        units_across<T>(even, row + 1 < K ? rows(row + 1) + n : decltype(even){}, units);
        for (int p = 0; p < kPieces<T>; ++p) v[p][i] = units[p];
      }
      for (int p = 0; p < kPieces<T>; ++p) {
        transpose(v[p]);
        for (int64_t i = 0; i < 16; ++i) {
          write(out.data + (n + i) * out.stride() + p * out.columns + first + k, v[p][i]);
        }
      }
    }
  }
}

// The same from what is a left-hand side already: its pieces need not be made again.
template <typename T>
void transpose_rows(Rows<T> from, int64_t K, int64_t N, Rows<T> out) {
  using P = Piece<T>;
  for (int p = 0; p < kPieces<T>; ++p) {
    Rows<P> to{out.data + p * out.columns, out.columns};
    constexpr int64_t step = 16 * kUnit<T>;
    for (int64_t k = 0; k < round_up(K, kGranule); k += step) {
      for (int64_t n = 0; n < N; n += 16) {
        Units v[16];
        for (int64_t i = 0; i < 16; ++i) {
          int64_t row = k + i * kUnit<T>;
          const P* even = from.data + row * from.stride() + p * from.columns + n;
          Units units[1];
          units_across<P>(row < K ? even : nullptr, row + 1 < K ? even + from.stride() : nullptr,
                          units);
          v[i] = units[0];
        }
        transpose(v);
        for (int64_t i = 0; i < 16; ++i) {
          write(to.data + (n + i) * out.stride() + k, v[i]);
        }
      }
    }
  }
}

// C (M × N, row stride ldc) = A (M × K) · packed B, added to C if `add`. `depth` is the K that B was
// packed with, where only its first K rows are wanted.
template <typename T>
void product(int64_t M, int64_t N, int64_t K, Rows<T> A, const Packed<T>* B, float* C, int64_t ldc,
             bool add, int64_t depth = 0) {
  if (!depth) depth = K;
  for (int64_t j = 0; j < N; j += kPanel) {
    int64_t width = std::min(kPanel, N - j);
#ifdef PLAIT_TILES
    if constexpr (kSplit<T>) {
      split_product(M, width, K, reinterpret_cast<const uint16_t*>(A.data), A.stride(), A.columns,
                    reinterpret_cast<const uint16_t*>(B + j * depth), depth * width, C + j, ldc,
                    add);
      continue;
    }
#endif
#ifdef PLAIT_LANES
    lane_product<false>(M, K, A.data, A.stride(), 16 * A.stride(), B + j * depth, C + j, ldc, add);
#else
    at::native::cpublas::brgemm(M, width, K, A.stride(), width, ldc, add, A.data,
                                reinterpret_cast<const Piece<T>*>(B + j * depth), C + j,
                                kUnit<T> == 2);
#endif
  }
}

// A left-hand side of which the columns are given, rows of another matrix, as in the gradient of
// weights. Plain vectors read columns as they are, 16 rows at a time; elsewhere they are transposed.
template <typename T>
struct Columns {
  Rows<T> rows;       // transposed; on plain vectors where the first column begins, and their room
  int64_t panel = 0;  // plain vectors: from 16 rows to the next,
  int64_t step = 0;   // and from a column to the next

  static Columns in_scratch(int slot, int64_t rows, int64_t columns) {
    auto room = Rows<T>::in_scratch(slot, rows, columns);
    return {room, 16 * room.stride(), 16};
  }

  // The first K rows of a left-hand side as columns of N numbers, K at most `room`.
  static Columns of(Rows<T> given, int64_t K, int64_t N, int slot, int64_t room) {
    if constexpr (kLanesOnly) return {given, 16, given.stride()};
    auto rows = Rows<T>::in_scratch(slot, N, room);
    transpose_rows(given, K, N, rows);
    return {rows};
  }

  // Without the rows before `row` (a multiple of 16).
  Columns from(int64_t row) const {
    if constexpr (kLanesOnly) return {{rows.data + row / 16 * panel, rows.columns}, panel, step};
    return {rows.from(row)};
  }

  // Without the first columns, on plain vectors only.
  Columns after(int64_t columns) const {
    return {{rows.data + columns * step, rows.columns}, panel, step};
  }

  // Column first + k = given(k)[0 … N) for k < K; those from K on, up to the next multiple of 32,
  // are zero.
  template <typename Source>
  void read(Source given, int64_t K, int64_t N, int64_t first = 0) const {
    if constexpr (kLanesOnly) {
      for (int64_t n = 0; n < N; n += 16) {
        Piece<T>* to = rows.data + n / 16 * panel + first * step;
        for (int64_t k = 0; k < round_up(K, kGranule); ++k, to += step) {
          store16(to, k < K ? load16(given(k) + n) : Floats{});
        }
      }
    } else {
      transpose_rows<T>(given, K, N, rows, first);
    }
  }
};

// The same product with a left-hand side by columns.
template <typename T>
void product(int64_t M, int64_t N, int64_t K, Columns<T> A, const Packed<T>* B, float* C,
             int64_t ldc, bool add, int64_t depth = 0) {
  if constexpr (kLanesOnly) {
    if (!depth) depth = K;
    for (int64_t j = 0; j < N; j += kPanel) {
      lane_product<true>(M, K, A.rows.data, A.step, A.panel, B + j * depth, C + j, ldc, add);
    }
  } else {
    product<T>(M, N, K, A.rows, B, C, ldc, add, depth);
  }
}

// Room for a packed right-hand side of n numbers that several threads use.
template <typename T>
at::Tensor packed_room(int64_t n) {
  return at::empty({n * int64_t(sizeof(Packed<T>))}, at::kByte);
}

// 0, step, 2 · step … below `end`: tasks by their first row or column.
inline std::vector<int64_t> steps(int64_t end, int64_t step) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < end; i += step) all.push_back(i);
  return all;
}

// Runs the tasks on all threads, in order, each thread taking the next one as it gets free; their
// products are of type T. What a task writes must not depend on which thread runs it.
template <typename T, typename Tasks, typename Work>
void run(const Tasks& tasks, Work work) {
  std::atomic<size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
#ifdef PLAIT_TILES
    [[maybe_unused]] std::conditional_t<kSplit<T>, Tiles, int> tiles{};
#endif
    for (size_t i = next++; i < tasks.size(); i = next++) work(tasks[i]);
    if constexpr (!kSplit<T> && !kLanesOnly) at::native::cpublas::brgemm_release(true);
#ifdef __AVX512F__
    _mm_sfence();
#endif
  });
}

// Calls work(T{}) for the type of a tensor.
template <typename Work>
void with_type(const at::Tensor& x, Work work) {
  x.scalar_type() == at::kBFloat16 ? work(BFloat16{}) : work(float{});
}

// Calls work<T, W>() for the types of the products and of the weights.
template <typename Work>
void with_types(const at::Tensor& x, const at::Tensor& weights, Work work) {
  bool bf16 = x.scalar_type() == at::kBFloat16, bf16_weights = weights.scalar_type() == at::kBFloat16;
  TORCH_CHECK(bf16 || (x.scalar_type() == at::kFloat && !bf16_weights), "types do not fit");
  if (!bf16) {
    work(float{}, float{});
  } else if (bf16_weights) {
    work(BFloat16{}, BFloat16{});
  } else {
    work(BFloat16{}, float{});
  }
}

}  // namespace plait
