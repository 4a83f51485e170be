// Sixteen floats at a time. Left to themselves, compilers turn the clamps of an exponential into
// masks, and what then runs in the masked lanes is denormal and ten times slower.
#pragma once
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>

#include "products.h"

namespace plait {

typedef float Floats __attribute__((vector_size(64)));

[[gnu::always_inline]] inline Floats load16(const float* x) {
  Floats v;
  std::memcpy(&v, x, 64);
  return v;
}

[[gnu::always_inline]] inline Floats load16(const BFloat16* x) {
  typedef uint16_t Halves __attribute__((vector_size(32)));
  Halves halves;
  std::memcpy(&halves, x, 32);
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Units) << 16);
}

[[gnu::always_inline]] inline void store16(float* to, Floats x) { std::memcpy(to, &x, 64); }

[[gnu::always_inline]] inline void store16(BFloat16* to, Floats x) {
#ifdef __AVX512BF16__
  auto halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
#else
  typedef uint16_t Halves __attribute__((vector_size(32)));
  Units u = reinterpret_cast<Units>(x);
  Units rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  rounded = (u & 0x7fffffffu) > 0x7f800000u ? Units{} + 0x7fc0u : rounded;
  Halves halves = __builtin_convertvector(rounded, Halves);
#endif
  std::memcpy(to, &halves, 32);
}

[[gnu::always_inline]] inline float sum_of(Floats x) {
  float lanes[16];
  std::memcpy(lanes, &x, 64);
  for (int half = 8; half; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

[[gnu::always_inline]] inline Floats most_of(Floats a, Floats b) { return b > a ? b : a; }

// exp to about one unit in the last place; below −87 it is exp(−87), above 88 exp(88).
[[gnu::always_inline]] inline Floats exp16(Floats x) {
  typedef int32_t Ints __attribute__((vector_size(64)));
  x = x < -87.0f ? Floats{} - 87.0f : x;
  x = x > 88.0f ? Floats{} + 88.0f : x;
  Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * reinterpret_cast<Floats>(exponent);
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

}  // namespace plait
