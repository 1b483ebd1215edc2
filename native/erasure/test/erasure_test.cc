// SPDX-License-Identifier: Apache-2.0
// The core without Node: CRC vectors, every loss of small codes, the padding of short objects and
// the bounds of the table cache. Exits 0 when all holds, aborts where not.

#include "../core/erasure.h"

#include <isa-l.h>

#include <cstdio>
#include <cstring>
#include <random>

#include "common/check.h"

using namespace ovs::erasure;

namespace {

void TestCrc() {
  OVS_CHECK(Crc32c(reinterpret_cast<const uint8_t*>("123456789"), 9, 0) == 0xE3069283u);
  const std::vector<uint8_t> zeroes(32, 0), ones(32, 0xff);
  OVS_CHECK(Crc32c(zeroes.data(), 32, 0) == 0x8A9136AAu);  // RFC 3720, B.4
  OVS_CHECK(Crc32c(ones.data(), 32, 0) == 0x62A8AB43u);
  OVS_CHECK(Crc32c(nullptr, 0, 0) == 0);
  const std::vector<uint8_t> page(kPageBytes, 0);
  OVS_CHECK(Crc32c(page.data(), kPageBytes, 0) == kZeroPageCrc);
  const uint8_t* text = reinterpret_cast<const uint8_t*>("123456789");
  OVS_CHECK(Crc32c(text + 4, 5, Crc32c(text, 4, 0)) == 0xE3069283u);
  std::vector<uint8_t> pages(3 * kPageBytes, 7);
  uint32_t crcs[3];
  Crc32cPages(pages.data(), 3, crcs);
  OVS_CHECK(crcs[0] == crcs[2]);
  OVS_CHECK(Crc32cVerify(pages.data(), 3, crcs) == -1);
  pages[2 * kPageBytes + 5] ^= 1;
  OVS_CHECK(Crc32cVerify(pages.data(), 3, crcs) == 2);
}

void TestMatrix() {
  for (int k = 1; k <= 40; k++) {
    std::vector<uint8_t> theirs(static_cast<size_t>((k + 20) * k));
    gf_gen_cauchy1_matrix(theirs.data(), k + 20, k);
    OVS_CHECK(theirs == Matrix(k, 20));
  }
}

struct Object {
  int k, m;
  size_t unit, stripes, bytes;
  std::vector<uint8_t> data, parity;
  std::vector<uint32_t> crcs;
  std::vector<std::vector<uint8_t>> fragments;
};

Object MakeObject(TableCache& cache, std::mt19937& random, int k, int m, size_t unit,
                  size_t stripes, size_t missing) {
  const size_t whole = stripes * unit * static_cast<size_t>(k);
  Object object{k, m, unit, stripes, whole - missing, {}, {}, {}, {}};
  object.data.resize(whole);
  for (size_t i = 0; i < object.bytes; i++) object.data[i] = static_cast<uint8_t>(random());
  object.parity.resize(stripes * unit * static_cast<size_t>(m));
  object.crcs.resize(static_cast<size_t>(k + m) * stripes * unit / kPageBytes);
  const std::vector<uint8_t> exact(object.data.begin(),
                                   object.data.begin() + static_cast<long>(object.bytes));
  Encode({k, m, unit, stripes, exact.data(), exact.size(), object.parity.data(), object.crcs.data(),
          cache.Encode(k, m).get()});
  for (int f = 0; f < k + m; f++) {
    std::vector<uint8_t> fragment(stripes * unit);
    for (size_t s = 0; s < stripes; s++) {
      const uint8_t* from =
          f < k ? &object.data[(s * static_cast<size_t>(k) + static_cast<size_t>(f)) * unit]
                : &object.parity[(static_cast<size_t>(f - k) * stripes + s) * unit];
      std::memcpy(&fragment[s * unit], from, unit);
    }
    const size_t pages = fragment.size() / kPageBytes;
    OVS_CHECK(Crc32cVerify(fragment.data(), pages, &object.crcs[static_cast<size_t>(f) * pages]) ==
              -1);
    object.fragments.push_back(fragment);
  }
  return object;
}

void CheckLoss(TableCache& cache, const Object& object, uint64_t lost) {
  std::vector<uint8_t> have, want;
  for (int f = 0; f < object.k + object.m; f++) {
    if (lost >> f & 1) {
      want.push_back(static_cast<uint8_t>(f));
    } else if (have.size() < static_cast<size_t>(object.k)) {
      have.push_back(static_cast<uint8_t>(f));
    }
  }
  RebuildJob job;
  job.bytes = object.unit * object.stripes;
  job.tables =
      cache.Rebuild(object.k, object.m, have.data(), want.data(), static_cast<int>(want.size()))
          .get();
  std::vector<std::vector<uint8_t>> rebuilt(want.size(), std::vector<uint8_t>(job.bytes, 0xaa));
  for (size_t i = 0; i < have.size(); i++) job.sources[i] = object.fragments[have[i]].data();
  for (size_t j = 0; j < want.size(); j++) job.targets[j] = rebuilt[j].data();
  Rebuild(job);
  for (size_t j = 0; j < want.size(); j++) OVS_CHECK(rebuilt[j] == object.fragments[want[j]]);
}

void TestEveryLoss(std::mt19937& random) {
  TableCache cache;
  for (int k = 1; k <= 6; k++) {
    for (int m = 1; m <= 4; m++) {
      const Object object = MakeObject(cache, random, k, m, 2 * kPageBytes, 2, kPageBytes);
      for (uint64_t lost = 1; lost < uint64_t{1} << (k + m); lost++) {
        if (__builtin_popcountll(lost) <= m) CheckLoss(cache, object, lost);
      }
    }
  }
}

void TestLarge(std::mt19937& random) {
  TableCache cache;
  for (const auto& [k, m] : {std::pair{20, 12}, {8, 3}, {40, 24}, {63, 1}, {1, 63}}) {
    const Object object = MakeObject(cache, random, k, m, 16 * kPageBytes, 2, 5 * kPageBytes);
    for (int round = 0; round < 20; round++) {
      uint64_t lost = 0;
      while (__builtin_popcountll(lost) < m)
        lost |= uint64_t{1} << random() % static_cast<unsigned>(k + m);
      CheckLoss(cache, object, lost);
    }
  }
}

void TestCacheIsBounded() {
  TableCache cache;
  const uint8_t want = 0;
  std::vector<uint8_t> have(20);
  for (int round = 0; round < 2000; round++) {
    for (size_t i = 0; i < have.size(); i++) have[i] = static_cast<uint8_t>(i + 1);
    have[static_cast<size_t>(round) % 20] = static_cast<uint8_t>(21 + round / 20 % 11);
    cache.Rebuild(20, 12, have.data(), &want, 1);
    OVS_CHECK(cache.count() <= kTablesMax && cache.bytes() <= kTableBytesMax);
  }
  OVS_CHECK(cache.count() > 100);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  TestCrc();
  TestMatrix();
  TestEveryLoss(random);
  TestLarge(random);
  TestCacheIsBounded();
  std::puts("erasure_test: ok");
  return 0;
}
