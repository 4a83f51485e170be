#pragma once
#include "products.h"

namespace plait {

// exp to about one unit in the last place of float32, in a form that compilers vectorise.
[[gnu::always_inline]] inline float exp_(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * float_of(uint32_t(int32_t(n) + 127) << 23);
}

[[gnu::always_inline]] inline float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

// The largest of n numbers, n > 0. Compilers do not vectorise this by themselves: a NaN would count.
template <typename T>
float largest(const T* __restrict x, int64_t n) {
  float lanes[16];
  for (float& lane : lanes) lane = load(x[0]);
  int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    for (int64_t l = 0; l < 16; ++l) {
      float y = load(x[i + l]);
      lanes[l] = y > lanes[l] ? y : lanes[l];
    }
  }
  float most = lanes[0];
  for (float lane : lanes) most = std::max(most, lane);
  for (int64_t i = whole; i < n; ++i) most = std::max(most, load(x[i]));
  return most;
}

}  // namespace plait
