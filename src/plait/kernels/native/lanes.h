// Float32 products on plain vectors, for processors on which torch has no brgemm (AVX2, NEON).
// Operands of bfloat16 are widened when they are packed: the products then cost what float32 costs,
// and no more.
#pragma once
#include <cstdint>
#include <cstring>

namespace plait {

typedef float Eight __attribute__((vector_size(32)));

[[gnu::always_inline]] inline Eight load8(const float* x) {
  Eight v;
  std::memcpy(&v, x, 32);
  return v;
}

// `rows` rows of 16 columns of C = A · B, added to C if `add`: their sums fill the registers. Numbers
// of a row of A follow each other and rows are `lda` apart; by columns it is the other way round.
template <int rows, bool by_columns>
[[gnu::always_inline]] inline void lane_block(int64_t K, const float* A, int64_t lda,
                                              const float* B, float* C, int64_t ldc, bool add) {
  Eight low[rows], high[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    low[r] = add ? load8(C + r * ldc) : Eight{};
    high[r] = add ? load8(C + r * ldc + 8) : Eight{};
  }
  for (int64_t k = 0; k < K; ++k) {
    Eight left = load8(B + k * 16), right = load8(B + k * 16 + 8);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      float a = by_columns ? A[k * lda + r] : A[r * lda + k];
      Eight factor = {a, a, a, a, a, a, a, a};
      low[r] += factor * left;
      high[r] += factor * right;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    std::memcpy(C + r * ldc, &low[r], 32);
    std::memcpy(C + r * ldc + 8, &high[r], 32);
  }
}

// One panel of 16 columns, M a multiple of 16; `panel` is from 16 rows of A to the next. 16 rows are
// 6 + 5 + 5: as many sums as registers hold, and everywhere more than it takes to hide how long one
// addition is under way (6 + 6 + 4: 0.8 of the speed).
template <bool by_columns>
inline void lane_product(int64_t M, int64_t K, const float* A, int64_t lda, int64_t panel,
                         const float* B, float* C, int64_t ldc, bool add) {
  const int64_t row = by_columns ? 1 : lda;
  for (int64_t m = 0; m < M; m += 16, A += panel, C += 16 * ldc) {
    lane_block<6, by_columns>(K, A, lda, B, C, ldc, add);
    lane_block<5, by_columns>(K, A + 6 * row, lda, B, C + 6 * ldc, ldc, add);
    lane_block<5, by_columns>(K, A + 11 * row, lda, B, C + 11 * ldc, ldc, add);
  }
}

}  // namespace plait
