// SPDX-License-Identifier: Apache-2.0
// Arithmetic in GF(2^8) with ISA-L's polynomial 0x11d, for the few coefficients of a code. Our own,
// because the functions of ISA-L that multiply single elements (gf_mul, gf_invert_matrix, …) must
// not be called inside Node: its binary exports OpenSSL's `gf_mul` (curve 448), which the dynamic
// linker prefers, also for the calls inside libisal.so. The functions that work on whole buffers
// are not concerned.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/check.h"

namespace ovs::erasure::gf {

struct Logarithms {
  std::array<uint8_t, 256> log{};
  std::array<uint8_t, 512> exp{};
  constexpr Logarithms() {
    unsigned value = 1;
    for (unsigned i = 0; i < 255; i++) {
      exp[i] = exp[i + 255] = static_cast<uint8_t>(value);
      log[value] = static_cast<uint8_t>(i);
      value = value << 1 ^ (value & 0x80 ? 0x11d : 0);
    }
  }
};
inline constexpr Logarithms kLogarithms;

constexpr uint8_t Multiply(uint8_t a, uint8_t b) {
  if (a == 0 || b == 0) return 0;
  return kLogarithms.exp[kLogarithms.log[a] + kLogarithms.log[b]];
}

/// `a` is not 0.
constexpr uint8_t Inverse(uint8_t a) { return kLogarithms.exp[255 - kLogarithms.log[a]]; }

static_assert(Multiply(0x80, 2) == 0x1d && Multiply(7, Inverse(7)) == 1);

/// Inverse of a regular width × width matrix (Gauss-Jordan).
inline std::vector<uint8_t> Invert(std::vector<uint8_t> a, size_t width) {
  std::vector<uint8_t> b(width * width);
  for (size_t i = 0; i < width; i++) b[i * width + i] = 1;
  const auto add = [width](std::vector<uint8_t>& matrix, size_t row, size_t from, uint8_t factor) {
    for (size_t c = 0; c < width; c++)
      matrix[row * width + c] ^= Multiply(factor, matrix[from * width + c]);
  };
  for (size_t column = 0; column < width; column++) {
    size_t pivot = column;
    while (pivot < width && a[pivot * width + column] == 0) pivot++;
    OVS_CHECK(pivot < width);
    for (size_t c = 0; c < width && pivot != column; c++) {
      std::swap(a[pivot * width + c], a[column * width + c]);
      std::swap(b[pivot * width + c], b[column * width + c]);
    }
    const uint8_t scale = Inverse(a[column * width + column]);
    for (size_t c = 0; c < width; c++) {
      a[column * width + c] = Multiply(scale, a[column * width + c]);
      b[column * width + c] = Multiply(scale, b[column * width + c]);
    }
    for (size_t row = 0; row < width; row++) {
      const uint8_t factor = a[row * width + column];
      if (row == column || factor == 0) continue;
      add(a, row, column, factor);
      add(b, row, column, factor);
    }
  }
  return b;
}

}  // namespace ovs::erasure::gf
