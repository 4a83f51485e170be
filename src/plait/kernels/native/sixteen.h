// Sixteen numbers of 32 bits that pass for one. With AVX-512 a register holds them; elsewhere they
// are two halves, since compilers keep vectors that are wider than a register in memory.
#pragma once
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace plait {

typedef uint16_t Halves __attribute__((vector_size(32)));

#ifdef __AVX512F__

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Units __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

[[gnu::always_inline]] inline Units bits(Floats x) { return reinterpret_cast<Units>(x); }
[[gnu::always_inline]] inline Floats floats(Units x) { return reinterpret_cast<Floats>(x); }
[[gnu::always_inline]] inline Floats floats(Ints x) { return reinterpret_cast<Floats>(x); }
[[gnu::always_inline]] inline Ints rounded_down(Floats x) {
  return __builtin_convertvector(x, Ints);
}
[[gnu::always_inline]] inline Units widened(Halves x) { return __builtin_convertvector(x, Units); }
[[gnu::always_inline]] inline Halves narrowed(Units x) {
  return __builtin_convertvector(x, Halves);
}

template <typename Vector>
[[gnu::always_inline]] inline Vector read(const void* from) {
  Vector v;
  std::memcpy(&v, from, 64);
  return v;
}
template <typename Vector>
[[gnu::always_inline]] inline void write(void* to, Vector v) {
  std::memcpy(to, &v, 64);
}

template <typename Vector>
[[gnu::always_inline]] inline Vector where(Ints mask, Vector yes, Vector no) {
  return mask ? yes : no;
}

[[gnu::always_inline]] inline Floats spread(float x) { return Floats(_mm512_set1_ps(x)); }

// Where one is no number, the second comes through.
[[gnu::always_inline]] inline Floats most_of(Floats a, Floats b) {
  return Floats(_mm512_max_ps(__m512(a), __m512(b)));
}
[[gnu::always_inline]] inline Floats least_of(Floats a, Floats b) {
  return Floats(_mm512_min_ps(__m512(a), __m512(b)));
}

#else

template <typename Lane>
struct Sixteen {
  typedef Lane Half __attribute__((vector_size(32)));
  typedef int32_t Mask __attribute__((vector_size(32)));
  Half low{}, high{};

  Sixteen() = default;
  [[gnu::always_inline]] Sixteen(Half low, Half high) : low(low), high(high) {}
  [[gnu::always_inline]] Sixteen(Lane x) : low{x, x, x, x, x, x, x, x}, high(low) {}

  [[gnu::always_inline]] Lane operator[](int64_t i) const { return i < 8 ? low[i] : high[i - 8]; }

#define PLAIT_EACH(op)                                                      \
  [[gnu::always_inline]] friend Sixteen operator op(Sixteen a, Sixteen b) { \
    return {a.low op b.low, a.high op b.high};                              \
  }                                                                         \
  [[gnu::always_inline]] Sixteen& operator op## = (Sixteen b) { return *this = *this op b; }
  PLAIT_EACH(+)
  PLAIT_EACH(-)
  PLAIT_EACH(*)
  PLAIT_EACH(/)
  PLAIT_EACH(&)
  PLAIT_EACH(|)
#undef PLAIT_EACH
  [[gnu::always_inline]] friend Sixteen operator-(Sixteen a) { return {-a.low, -a.high}; }
  [[gnu::always_inline]] friend Sixteen operator<<(Sixteen a, int n) {
    return {a.low << n, a.high << n};
  }
  [[gnu::always_inline]] friend Sixteen operator>>(Sixteen a, int n) {
    return {a.low >> n, a.high >> n};
  }
  [[gnu::always_inline]] friend Sixteen<int32_t> operator<(Sixteen a, Sixteen b) {
    return {Mask(a.low < b.low), Mask(a.high < b.high)};
  }
  [[gnu::always_inline]] friend Sixteen<int32_t> operator>(Sixteen a, Sixteen b) { return b < a; }
  [[gnu::always_inline]] friend Sixteen<int32_t> operator==(Sixteen a, Sixteen b) {
    return {Mask(a.low == b.low), Mask(a.high == b.high)};
  }
};

typedef Sixteen<float> Floats;
typedef Sixteen<uint32_t> Units;
typedef Sixteen<int32_t> Ints;

// A half at a time: as a whole they would be copied through memory in other pieces than they are
// read.
template <typename Vector>
[[gnu::always_inline]] inline Vector read(const void* from) {
  Vector v;
  std::memcpy(&v.low, from, 32);
  std::memcpy(&v.high, static_cast<const char*>(from) + 32, 32);
  return v;
}
template <typename Vector>
[[gnu::always_inline]] inline void write(void* to, Vector v) {
  std::memcpy(to, &v.low, 32);
  std::memcpy(static_cast<char*>(to) + 32, &v.high, 32);
}

template <typename To, typename From>
[[gnu::always_inline]] inline To same_bits(From x) {
  return {reinterpret_cast<typename To::Half>(x.low), reinterpret_cast<typename To::Half>(x.high)};
}
[[gnu::always_inline]] inline Units bits(Floats x) { return same_bits<Units>(x); }
[[gnu::always_inline]] inline Floats floats(Units x) { return same_bits<Floats>(x); }
[[gnu::always_inline]] inline Floats floats(Ints x) { return same_bits<Floats>(x); }

[[gnu::always_inline]] inline Ints rounded_down(Floats x) {
  return {__builtin_convertvector(x.low, Ints::Half), __builtin_convertvector(x.high, Ints::Half)};
}

typedef uint16_t EightHalves __attribute__((vector_size(16)));
[[gnu::always_inline]] inline Units widened(Halves x) {
  EightHalves low = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),
              high = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  return {__builtin_convertvector(low, Units::Half), __builtin_convertvector(high, Units::Half)};
}
[[gnu::always_inline]] inline Halves narrowed(Units x) {
  return __builtin_shufflevector(__builtin_convertvector(x.low, EightHalves),
                                 __builtin_convertvector(x.high, EightHalves), 0, 1, 2, 3, 4, 5, 6,
                                 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

template <typename Vector>
[[gnu::always_inline]] inline Vector where(Ints mask, Vector yes, Vector no) {
  return {mask.low ? yes.low : no.low, mask.high ? yes.high : no.high};
}

[[gnu::always_inline]] inline Floats spread(float x) { return x; }

// Where one is no number, the second comes through.
[[gnu::always_inline]] inline Floats most_of(Floats a, Floats b) { return where(a > b, a, b); }
[[gnu::always_inline]] inline Floats least_of(Floats a, Floats b) { return where(a < b, a, b); }

#endif

[[gnu::always_inline]] inline Floats least_of(float a, Floats b) { return least_of(spread(a), b); }
[[gnu::always_inline]] inline Floats most_of(float a, Floats b) { return most_of(spread(a), b); }

}  // namespace plait
