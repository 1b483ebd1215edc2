// SPDX-License-Identifier: Apache-2.0
// Why the work is cut into blocks: a block of all k + m fragments stays in the second-level cache,
// so that the coding pass brings it in and the checksum pass finds it there. Memory is read once
// and written once, whatever the size of the object. Where one pass is all there is (no checksums,
// few rows) nothing is cut: each call of ISA-L has its start-up cost.

#include "erasure.h"

#include <isa-l.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "gf.h"

namespace ovs::erasure {
namespace {

constexpr size_t kBlockBytesMax = 16 * 1024;
constexpr size_t kBlocksBytes = 256 * 1024;
/// Rows that ISA-L's AVX2 and AVX-512 code computes in one pass over the data.
constexpr int kRowsPerPass = 6;
/// ISA-L counts bytes in an int.
constexpr size_t kCallBytesMax = 1 << 30;

alignas(64) const uint8_t kZeroes[kPageBytes] = {};
static_assert(kPageBytes == 4096, "kZeroPageCrc is that of 4096 zeroes");

/// Bytes of one fragment that are worked on at a time when all are read more than once: for the
/// checksums, or because ISA-L makes the rows in several passes.
size_t BlockBytes(int fragments) {
  const size_t pages = kBlocksBytes / kPageBytes / static_cast<size_t>(fragments);
  return std::clamp(pages * kPageBytes, kPageBytes, kBlockBytesMax);
}

void Code(const Tables& tables, size_t bytes, const uint8_t** sources, uint8_t** targets) {
  // ISA-L takes no const anywhere; it writes to the targets only.
  ec_encode_data(static_cast<int>(bytes), tables.sources, tables.rows,
                 const_cast<uint8_t*>(tables.bytes.data()), const_cast<uint8_t**>(sources),
                 targets);
}

std::shared_ptr<const Tables> MakeTables(int sources, int rows, uint8_t* matrix) {
  auto tables = std::make_shared<Tables>();
  tables->sources = sources;
  tables->rows = rows;
  tables->bytes.resize(static_cast<size_t>(32) * sources * rows);
  ec_init_tables(sources, rows, matrix, tables->bytes.data());
  return tables;
}

void CheckCode(int k, int m) { OVS_CHECK(k >= 1 && m >= 0 && k + m <= kFragmentsMax); }

/// Rows of `want` in terms of `have`: want = matrix[want] * inverse(matrix[have]).
std::vector<uint8_t> RebuildRows(int k, int m, const uint8_t* have, const uint8_t* want,
                                 int wants) {
  const std::vector<uint8_t> matrix = Matrix(k, m);
  const size_t width = static_cast<size_t>(k);
  std::vector<uint8_t> square(width * width);
  for (size_t i = 0; i < width; i++) {
    std::memcpy(&square[i * width], &matrix[have[i] * width], width);
  }
  const std::vector<uint8_t> inverse = gf::Invert(std::move(square), width);
  std::vector<uint8_t> rows(static_cast<size_t>(wants) * width);
  for (size_t row = 0; row < static_cast<size_t>(wants); row++) {
    for (size_t column = 0; column < width; column++) {
      uint8_t sum = 0;
      for (size_t i = 0; i < width; i++) {
        sum ^= gf::Multiply(matrix[want[row] * width + i], inverse[i * width + column]);
      }
      rows[row * width + column] = sum;
    }
  }
  return rows;
}

/// One block of one stripe: `offset` in the unit, `bytes` of each unit.
class BlockEncoder {
 public:
  explicit BlockEncoder(const EncodeJob& job)
      : job_(job), fragment_bytes_(job.stripes * job.unit_bytes) {}

  /// True when every unit's block lies wholly in the data or wholly behind it (and is one page
  /// then).
  bool Run(size_t stripe, size_t offset, size_t bytes) {
    const size_t stripe_at = stripe * static_cast<size_t>(job_.k) * job_.unit_bytes;
    for (int i = 0; i < job_.k; i++) {
      const size_t at = stripe_at + static_cast<size_t>(i) * job_.unit_bytes + offset;
      const bool inside = at + bytes <= job_.data_bytes;
      if (!inside && bytes > kPageBytes) return false;
      sources_[i] = inside ? job_.data + at : kZeroes;
    }
    const size_t fragment_at = stripe * job_.unit_bytes + offset;
    for (int j = 0; j < job_.m; j++) {
      targets_[j] = job_.parity + static_cast<size_t>(j) * fragment_bytes_ + fragment_at;
    }
    // Coding first: it brings all k streams into the cache side by side, faster than the
    // checksums would one after the other.
    if (job_.m > 0) Code(*job_.tables, bytes, sources_, targets_);
    if (job_.crcs != nullptr) {
      for (int i = 0; i < job_.k; i++) Check(i, fragment_at, sources_[i], bytes);
      for (int j = 0; j < job_.m; j++) Check(job_.k + j, fragment_at, targets_[j], bytes);
    }
    return true;
  }

 private:
  void Check(int fragment, size_t fragment_at, const uint8_t* bytes, size_t count) {
    uint32_t* crcs =
        job_.crcs + (static_cast<size_t>(fragment) * fragment_bytes_ + fragment_at) / kPageBytes;
    if (bytes == kZeroes) {
      *crcs = kZeroPageCrc;
    } else {
      Crc32cPages(bytes, count / kPageBytes, crcs);
    }
  }

  const EncodeJob& job_;
  const size_t fragment_bytes_;
  const uint8_t* sources_[kFragmentsMax] = {};
  uint8_t* targets_[kFragmentsMax] = {};
};

}  // namespace

std::vector<uint8_t> Matrix(int k, int m) {
  CheckCode(k, m);
  std::vector<uint8_t> matrix(static_cast<size_t>(k + m) * k);
  for (int i = 0; i < k; i++) matrix[i * k + i] = 1;
  for (int i = k; i < k + m; i++) {
    for (int j = 0; j < k; j++) matrix[i * k + j] = gf::Inverse(static_cast<uint8_t>(i ^ j));
  }
  return matrix;
}

uint32_t Crc32c(const uint8_t* data, size_t bytes, uint32_t seed) {
  // ISA-L's function has neither the inversion before nor the one after.
  uint32_t state = ~seed;
  while (bytes > 0) {
    const size_t count = std::min(bytes, kCallBytesMax);
    state = crc32_iscsi(const_cast<uint8_t*>(data), static_cast<int>(count), state);
    data += count;
    bytes -= count;
  }
  return ~state;
}

void Crc32cPages(const uint8_t* data, size_t pages, uint32_t* crcs) {
  for (size_t i = 0; i < pages; i++) crcs[i] = Crc32c(data + i * kPageBytes, kPageBytes, 0);
}

int64_t Crc32cVerify(const uint8_t* data, size_t pages, const uint32_t* expected) {
  for (size_t i = 0; i < pages; i++) {
    if (Crc32c(data + i * kPageBytes, kPageBytes, 0) != expected[i]) return static_cast<int64_t>(i);
  }
  return -1;
}

const std::shared_ptr<const Tables>* TableCache::Find(const std::string& key) {
  const auto found = index_.find(key);
  if (found == index_.end()) return nullptr;
  order_.splice(order_.begin(), order_, found->second);
  return &found->second->tables;
}

const std::shared_ptr<const Tables>& TableCache::Add(std::string key,
                                                     std::shared_ptr<const Tables> tables) {
  bytes_ += tables->bytes.size();
  order_.push_front({std::move(key), std::move(tables)});
  index_[order_.front().key] = order_.begin();
  while (order_.size() > 1 && (order_.size() > kTablesMax || bytes_ > kTableBytesMax)) {
    bytes_ -= order_.back().tables->bytes.size();
    index_.erase(order_.back().key);
    order_.pop_back();
  }
  return order_.front().tables;
}

const std::shared_ptr<const Tables>& TableCache::Encode(int k, int m) {
  CheckCode(k, m);
  std::string key{static_cast<char>(k), static_cast<char>(m)};
  if (const auto* tables = Find(key)) return *tables;
  std::vector<uint8_t> matrix = Matrix(k, m);
  return Add(std::move(key), MakeTables(k, m, matrix.data() + static_cast<size_t>(k) * k));
}

const std::shared_ptr<const Tables>& TableCache::Rebuild(int k, int m, const uint8_t* have,
                                                         const uint8_t* want, int wants) {
  CheckCode(k, m);
  OVS_CHECK(wants >= 1 && wants <= k + m);
  std::string key{static_cast<char>(k), static_cast<char>(m)};
  key.append(reinterpret_cast<const char*>(have), static_cast<size_t>(k));
  key.append(reinterpret_cast<const char*>(want), static_cast<size_t>(wants));
  if (const auto* tables = Find(key)) return *tables;
  uint64_t seen = 0;
  for (int i = 0; i < k; i++) {
    OVS_CHECK(have[i] < k + m && (seen >> have[i] & 1) == 0);
    seen |= uint64_t{1} << have[i];
  }
  for (int j = 0; j < wants; j++) OVS_CHECK(want[j] < k + m);
  std::vector<uint8_t> rows = RebuildRows(k, m, have, want, wants);
  return Add(std::move(key), MakeTables(k, wants, rows.data()));
}

void Encode(const EncodeJob& job) {
  CheckCode(job.k, job.m);
  OVS_CHECK(job.unit_bytes > 0 && job.unit_bytes % kPageBytes == 0);
  OVS_CHECK(job.data_bytes % kPageBytes == 0);
  OVS_CHECK(job.data_bytes <= job.stripes * static_cast<size_t>(job.k) * job.unit_bytes);
  OVS_CHECK(job.m == 0 || (job.tables->sources == job.k && job.tables->rows == job.m));
  BlockEncoder encoder(job);
  const bool is_one_pass = job.crcs == nullptr && job.m <= kRowsPerPass;
  const size_t block = is_one_pass ? kCallBytesMax : BlockBytes(job.k + job.m);
  for (size_t stripe = 0; stripe < job.stripes; stripe++) {
    for (size_t offset = 0; offset < job.unit_bytes; offset += block) {
      const size_t bytes = std::min(block, job.unit_bytes - offset);
      if (encoder.Run(stripe, offset, bytes)) continue;
      // The data ends in this block: page by page.
      for (size_t page = 0; page < bytes; page += kPageBytes) {
        OVS_CHECK(encoder.Run(stripe, offset + page, kPageBytes));
      }
    }
  }
}

void Rebuild(const RebuildJob& job) {
  OVS_CHECK(job.bytes % kPageBytes == 0);
  const Tables& tables = *job.tables;
  const bool is_one_pass = tables.rows <= kRowsPerPass;
  const size_t block = is_one_pass ? kCallBytesMax : BlockBytes(tables.sources + tables.rows);
  const uint8_t* sources[kFragmentsMax];
  uint8_t* targets[kFragmentsMax];
  for (size_t offset = 0; offset < job.bytes; offset += block) {
    for (int i = 0; i < tables.sources; i++) sources[i] = job.sources[i] + offset;
    for (int j = 0; j < tables.rows; j++) targets[j] = job.targets[j] + offset;
    Code(tables, std::min(block, job.bytes - offset), sources, targets);
  }
}

}  // namespace ovs::erasure
