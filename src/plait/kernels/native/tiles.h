// Float32 products on matrix units that know bfloat16 only (Intel's AMX). A float is the exact sum of
// three bfloat16 pieces of falling size; of the nine products of pieces, six are summed in float32.
// What is left out is some 2⁻²⁴ of the product, about what float32 itself leaves out; the six
// still take less than half the time of one product on the vector units. The idea is that of
// Henry, Tang and Heinecke, arXiv 1904.06376.
#pragma once
#ifndef __AMX_BF16__  // a compiler that does not know them
#undef PLAIT_TILES
#endif
#ifdef PLAIT_TILES
#include <immintrin.h>

#include <cstdint>

namespace plait {

// Holds this thread's tiles ready while it lives. The process must have asked for them (build.py).
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// A block of 32 columns and 16 or 32 rows of C = A · B, added to C if `add`. Pieces of A lie
// `a_piece` apart, pieces of B `b_piece`; B holds two rows of `width` columns interleaved.
template <bool both>
inline void split_block(int64_t K, const uint16_t* A, int64_t lda, int64_t a_piece,
                        const uint16_t* B, int64_t width, int64_t b_piece, float* C, int64_t ldc,
                        bool add) {
  const int64_t a_stride = lda * 2, b_stride = width * 4, c_stride = ldc * 4;
  if (add) {
    _tile_loadd(0, C, c_stride);
    _tile_loadd(1, C + 16, c_stride);
    if constexpr (both) {
      _tile_loadd(2, C + 16 * ldc, c_stride);
      _tile_loadd(3, C + 16 * ldc + 16, c_stride);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < K; k += 32) {
    const uint16_t *a = A + k, *b = B + k * width;
    auto load_a = [&](int64_t piece) {
      _tile_loadd(4, a + piece * a_piece, a_stride);
      if constexpr (both) _tile_loadd(5, a + piece * a_piece + 16 * lda, a_stride);
    };
    auto load_b = [&](int64_t piece) {
      _tile_loadd(6, b + piece * b_piece, b_stride);
      _tile_loadd(7, b + piece * b_piece + 32, b_stride);
    };
    auto multiply = [&] {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (both) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    };
    // in the order in which fewest pieces are loaded twice
    load_a(2);
    load_b(0);
    multiply();
    load_a(1);
    multiply();
    load_b(1);
    multiply();
    load_a(0);
    multiply();
    load_b(2);
    multiply();
    load_b(0);
    multiply();
  }
  _tile_stored(0, C, c_stride);
  _tile_stored(1, C + 16, c_stride);
  if constexpr (both) {
    _tile_stored(2, C + 16 * ldc, c_stride);
    _tile_stored(3, C + 16 * ldc + 16, c_stride);
  }
}

// One panel of columns, M a multiple of 16 and `width` of 32.
inline void split_product(int64_t M, int64_t width, int64_t K, const uint16_t* A, int64_t lda,
                          int64_t a_piece, const uint16_t* B, int64_t b_piece, float* C,
                          int64_t ldc, bool add) {
  asm volatile("" ::: "memory");  // compilers do not know that tiles read memory
  for (int64_t n = 0; n < width; n += 32) {
    int64_t m = 0;
    for (; m + 32 <= M; m += 32) {
      split_block<true>(K, A + m * lda, lda, a_piece, B + 2 * n, width, b_piece, C + m * ldc + n,
                        ldc, add);
    }
    if (m < M) {
      split_block<false>(K, A + m * lda, lda, a_piece, B + 2 * n, width, b_piece, C + m * ldc + n,
                         ldc, add);
    }
  }
  asm volatile("" ::: "memory");
}

}  // namespace plait
#endif
