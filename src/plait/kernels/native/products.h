// Matrix products on one thread through torch's brgemm, for float32 and for bfloat16 with float32
// sums, and the packing of their right-hand sides. A right-hand side B (K × N) is stored in panels
// of 64 columns; for bfloat16 two rows of a panel are interleaved, as matrix units want them.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace plait {

using at::BFloat16;

constexpr int64_t kPanel = 64;
// K and N of every product must be multiples of this; rows may be of any number.
constexpr int64_t kGranule = 32;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

[[gnu::always_inline]] inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

[[gnu::always_inline]] inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

[[gnu::always_inline]] inline float load(float x) { return x; }
[[gnu::always_inline]] inline float load(BFloat16 x) { return float_of(uint32_t(x.x) << 16); }

// The bit pattern of x as bfloat16, rounded to nearest even, in the low half.
[[gnu::always_inline]] inline uint32_t bf16_bits(float x) {
  uint32_t u = bits_of(x);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded;
}
[[gnu::always_inline]] inline uint32_t bf16_bits(BFloat16 x) { return x.x; }

[[gnu::always_inline]] inline void store(float& to, float x) { to = x; }
[[gnu::always_inline]] inline void store(BFloat16& to, float x) { to.x = uint16_t(bf16_bits(x)); }

template <typename To, typename From>
inline void copy_row(To* __restrict to, const From* __restrict from, int64_t n) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, size_t(n) * sizeof(To));
  } else {
    for (int64_t i = 0; i < n; ++i) store(to[i], load(from[i]));
  }
}

// A unit is 32 bits of one column: one float, or two consecutive rows in bfloat16.
template <typename T>
constexpr int64_t kUnit = 4 / int64_t(sizeof(T));

typedef uint32_t Units __attribute__((vector_size(64)));

template <int S>
inline void transpose_stage(Units (&v)[16]) {
  typedef int32_t Lanes __attribute__((vector_size(64)));
  Lanes low{}, high{};
  for (int lane = 0; lane < 16; ++lane) {
    low[lane] = lane & S ? 16 + lane - S : lane;
    high[lane] = lane & S ? 16 + lane : lane + S;
  }
  for (int i = 0; i < 16; ++i) {
    if (i & S) continue;
    Units a = v[i], b = v[i + S];
    v[i] = __builtin_shuffle(a, b, low);
    v[i + S] = __builtin_shuffle(a, b, high);
  }
}

inline void transpose(Units (&v)[16]) {
  transpose_stage<1>(v);
  transpose_stage<2>(v);
  transpose_stage<4>(v);
  transpose_stage<8>(v);
}

// 16 units that follow each other along a row: floats, or pairs of bfloat16.
template <typename T, typename From>
inline Units units_along(const From* from) {
  Units v;
  if constexpr (std::is_same_v<T, From>) {
    std::memcpy(&v, from, 64);
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    alignas(64) uint32_t u[16];
    for (int i = 0; i < 16; ++i) {
      u[i] = bf16_bits(from[2 * i]) | bf16_bits(from[2 * i + 1]) << 16;
    }
    std::memcpy(&v, u, 64);
  }
  return v;
}

// Packs B(k, n) = rows(k)[n]; rows from K on, up to the next multiple of 32, are zero.
template <typename T, typename Rows>
void pack(Rows rows, int64_t K, int64_t N, T* out) {
  int64_t K_padded = round_up(K, kGranule);
  for (int64_t j = 0; j < N; j += kPanel) {
    int64_t width = std::min(kPanel, N - j);
    for (int64_t k = 0; k < K_padded; k += kUnit<T>) {
      uint32_t* __restrict to = reinterpret_cast<uint32_t*>(out + j * K_padded) + k / kUnit<T> * width;
      if (k >= K) {
        std::memset(to, 0, size_t(width) * 4);
      } else if constexpr (kUnit<T> == 1) {
        std::memcpy(to, rows(k) + j, size_t(width) * 4);
      } else {
        const auto* __restrict even = rows(k) + j;
        if (k + 1 < K) {
          const auto* __restrict odd = rows(k + 1) + j;
          for (int64_t n = 0; n < width; ++n) to[n] = bf16_bits(even[n]) | bf16_bits(odd[n]) << 16;
        } else {
          for (int64_t n = 0; n < width; ++n) to[n] = bf16_bits(even[n]);
        }
      }
    }
  }
}

// Packs B(k, n) = from[n * K + k]: a weight matrix (N × K) on the right-hand side, transposed.
template <typename T, typename From>
void pack_transposed(const From* from, int64_t K, int64_t N, T* out) {
  constexpr int64_t step = 16 * kUnit<T>;
  for (int64_t j = 0; j < N; j += kPanel) {
    int64_t width = std::min(kPanel, N - j);
    uint32_t* panel = reinterpret_cast<uint32_t*>(out + j * K);
    for (int64_t n = 0; n < width; n += 16) {
      for (int64_t k = 0; k < K; k += step) {
        Units v[16];
        for (int64_t i = 0; i < 16; ++i) v[i] = units_along<T>(from + (j + n + i) * K + k);
        transpose(v);
        for (int64_t i = 0; i < 16; ++i) {
          std::memcpy(panel + (k / kUnit<T> + i) * width + n, &v[i], 64);
        }
      }
    }
  }
}

// Stores out(n, k) = rows(k)[n], the left-hand side of a weight gradient; K padded as in `pack`.
template <typename T, typename Rows>
void transpose_rows(Rows rows, int64_t K, int64_t N, T* out) {
  constexpr int64_t step = 16 * kUnit<T>;
  int64_t K_padded = round_up(K, kGranule);
  for (int64_t k = 0; k < K_padded; k += step) {
    for (int64_t n = 0; n < N; n += 16) {
      Units v[16];
      for (int64_t i = 0; i < 16; ++i) {
        int64_t row = k + i * kUnit<T>;
        v[i] = Units{};
        if (row >= K) continue;
        if constexpr (kUnit<T> == 1) {
          std::memcpy(&v[i], rows(row) + n, 64);
        } else {
          typedef uint16_t Halves __attribute__((vector_size(32)));
          Halves even, odd{};
          std::memcpy(&even, rows(row) + n, 32);
          if (row + 1 < K) std::memcpy(&odd, rows(row + 1) + n, 32);
          v[i] = __builtin_convertvector(even, Units) | __builtin_convertvector(odd, Units) << 16;
        }
      }
      transpose(v);
      for (int64_t i = 0; i < 16; ++i) std::memcpy(out + (n + i) * K_padded + k, &v[i], 64);
    }
  }
}

// C (M × N, row stride ldc) = A (M × K) · packed B, added to C if `add`. `depth` is the K that B was
// packed with, where only its first K rows are wanted.
template <typename T>
void product(int64_t M, int64_t N, int64_t K, const T* A, int64_t lda, const T* B, float* C,
             int64_t ldc, bool add, int64_t depth = 0) {
  for (int64_t j = 0; j < N; j += kPanel) {
    int64_t width = std::min(kPanel, N - j);
    at::native::cpublas::brgemm(M, width, K, lda, width, ldc, add, A, B + j * (depth ? depth : K),
                                C + j, kUnit<T> == 2);
  }
}

// Memory of one thread that lives as long as the thread: no page faults after the first step.
template <typename T>
T* scratch(int slot, int64_t count) {
  thread_local std::vector<std::vector<char>> slots(16);
  auto& bytes = slots[size_t(slot)];
  size_t needed = size_t(count) * sizeof(T) + 64;
  if (bytes.size() < needed) bytes.resize(needed);
  auto address = reinterpret_cast<uintptr_t>(bytes.data());
  return reinterpret_cast<T*>((address + 63) / 64 * 64);
}

// Runs the tasks on all threads, in order, each thread taking the next one as it gets free.
// What a task writes must not depend on which thread runs it.
template <typename Tasks, typename Work>
void run(const Tasks& tasks, Work work) {
  std::atomic<size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (size_t i = next++; i < tasks.size(); i = next++) work(tasks[i]);
    at::native::cpublas::brgemm_release(true);
  });
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
