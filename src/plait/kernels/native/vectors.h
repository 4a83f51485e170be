// Reading, writing and functions of sixteen floats at a time. Left to themselves, compilers turn the clamps
// of an exponential into masks, and what then runs in the masked lanes is denormal and ten times slower.
#pragma once
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <type_traits>

#include "sixteen.h"

namespace plait {

using c10::BFloat16;

[[gnu::always_inline]] inline float load(float x) { return x; }
[[gnu::always_inline]] inline float load(BFloat16 x) {
  uint32_t u = uint32_t(x.x) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

[[gnu::always_inline]] inline void store(float& to, float x) { to = x; }
[[gnu::always_inline]] inline void store(BFloat16& to, float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  to.x = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

[[gnu::always_inline]] inline Floats load16(const float* x) {
  return read<Floats>(x);
}

[[gnu::always_inline]] inline Floats load16(const BFloat16* x) {
  Halves halves;
  std::memcpy(&halves, x, 32);
  return floats(widened(halves) << 16);
}

[[gnu::always_inline]] inline void store16(float* to, Floats x) { write(to, x); }

// The bit patterns of x as bfloat16, rounded to nearest even; a NaN stays one.
[[gnu::always_inline]] inline Halves halves16(Floats x) {
#ifdef __AVX512BF16__
  return Halves(_mm512_cvtneps_pbh(__m512(x)));
#else
  Units u = bits(x);
  Units rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return narrowed(where((u & 0x7fffffffu) > 0x7f800000u, Units{} + 0x7fc0u, rounded));
#endif
}

[[gnu::always_inline]] inline void store16(BFloat16* to, Floats x) {
  Halves halves = halves16(x);
  std::memcpy(to, &halves, 32);
}

// n numbers from one place to another, the type changed where it must be.
template <typename To, typename From>
inline void copy_row(To* __restrict to, const From* __restrict from, int64_t n) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, size_t(n) * sizeof(To));
  } else {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store16(to + i, load16(from + i));
    for (; i < n; ++i) store(to[i], load(from[i]));
  }
}

// The same past the caches, for what is read again only much later: a line that is written whole need
// not be fetched first. `run` waits for such writes before a task's thread ends.
template <typename To>
inline void stream_row(To* to, const float* from, int64_t n) {
#ifdef __AVX512F__
  if (n % 32 == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0) {
    for (int64_t i = 0; i < n; i += 16) {
      if constexpr (std::is_same_v<To, float>) {
        _mm512_stream_ps(to + i, __m512(load16(from + i)));
      } else {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), __m256i(halves16(load16(from + i))));
      }
    }
    return;
  }
#endif
  copy_row(to, from, n);
}

inline void add_row(float* __restrict to, const float* __restrict from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

inline void scale_row(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

[[gnu::always_inline]] inline float sum_of(Floats x) {
  float lanes[16];
  write(lanes, x);
  for (int half = 8; half; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

[[gnu::always_inline]] inline float most_in(Floats x) {
  float lanes[16];
  write(lanes, x);
  for (int half = 8; half; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    }
  }
  return lanes[0];
}

// 0, 1, 2 … 15
[[gnu::always_inline]] inline Ints lanes16() {
  static constexpr int32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return read<Ints>(kLanes);
}

// The first n lanes of x; the others are zero.
[[gnu::always_inline]] inline Floats first16(Floats x, int64_t n) {
  return where(lanes16() < int32_t(std::min<int64_t>(n, 16)), x, Floats{});
}

// x, less `amount` in one lane, if there is such a lane.
[[gnu::always_inline]] inline Floats less16(Floats x, int64_t lane, float amount) {
  if (lane < 0 || lane > 15) return x;
  return x - where(lanes16() == int32_t(lane), spread(amount), Floats{});
}

// exp to about one unit in the last place; below −87 it is exp(−87), above 88 exp(88), and of what is no
// number none.
[[gnu::always_inline]] inline Floats exp16(Floats x) {
  x = least_of(88.0f, most_of(-87.0f, x));
  Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
#ifdef __AVX512F__
  return Floats(_mm512_scalef_ps(__m512(p), __m512(n)));
#else
  return p * floats((rounded_down(n) + 127) << 23);
#endif
}

[[gnu::always_inline]] inline Floats sigmoid16(Floats x) { return 1.0f / (1.0f + exp16(-x)); }

// The largest of n numbers, n > 0; whether a NaN counts is left open.
template <typename T>
float largest(const T* x, int64_t n) {
  float most = load(x[0]);
  int64_t i = 0;
  if (n >= 32) {
    Floats a = load16(x), b = load16(x + 16);
    for (i = 32; i + 32 <= n; i += 32) {
      a = most_of(a, load16(x + i));
      b = most_of(b, load16(x + i + 16));
    }
    a = most_of(a, b);
    for (int lane = 0; lane < 16; ++lane) most = std::max(most, a[lane]);
  }
  for (; i < n; ++i) most = std::max(most, load(x[i]));
  return most;
}

// Exchanges lanes S apart between vectors S apart: one of the steps of transposing.
template <int S, typename Vector, int count>
[[gnu::always_inline]] inline void transpose_stage(Vector (&v)[count]) {
  Vector low{}, high{};
  for (int lane = 0; lane < count; ++lane) {
    low[lane] = uint32_t(lane & S ? count + lane - S : lane);
    high[lane] = uint32_t(lane & S ? count + lane : lane + S);
  }
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    if (i & S) continue;
    Vector a = v[i], b = v[i + S];
    v[i] = __builtin_shuffle(a, b, low);
    v[i + S] = __builtin_shuffle(a, b, high);
  }
}

// Of 16 × 16 units: at once where a vector holds sixteen, else as four squares of 8 × 8.
inline void transpose(Units (&v)[16]) {
#ifdef __AVX512F__
  transpose_stage<1>(v);
  transpose_stage<2>(v);
  transpose_stage<4>(v);
  transpose_stage<8>(v);
#else
  auto square = [&](auto& of, auto half, int first) {  // half of eight of the vectors
    for (int i = 0; i < 8; ++i) of[i] = v[first + i].*half;
    transpose_stage<1>(of);
    transpose_stage<2>(of);
    transpose_stage<4>(of);
  };
  Units::Half corners[4][8];
  square(corners[0], &Units::low, 0);
  square(corners[1], &Units::low, 8);
  square(corners[2], &Units::high, 0);
  square(corners[3], &Units::high, 8);
  for (int i = 0; i < 8; ++i) {
    v[i] = {corners[0][i], corners[1][i]};
    v[8 + i] = {corners[2][i], corners[3][i]};
  }
#endif
}

}  // namespace plait
