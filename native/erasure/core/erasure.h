// SPDX-License-Identifier: Apache-2.0
// Erasure coding and CRC-32C on plain memory: ISA-L with the matrix, the tables and the order of
// the work chosen here. Knows nothing of Node. Which SIMD code runs is ISA-L's own dispatch.
//
// Matrix: identity on top of a Cauchy matrix (as gf_gen_cauchy1_matrix makes it). Every square
// submatrix of a Cauchy matrix is invertible, so any k of the k + m fragments decode, for all k + m
// <= 256. The Vandermonde matrix of gf_gen_rs_matrix promises that for small codes only (k <= 3, or
// m <= 3, or k = 4, m <= 21, …): at 20 + 12 some losses of m fragments would leave a singular
// matrix.
#pragma once
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace ovs::erasure {

inline constexpr size_t kPageBytes = 4096;
/// Most fragments (k + m) of one code.
inline constexpr int kFragmentsMax = 64;
/// CRC-32C of a page of zeroes.
inline constexpr uint32_t kZeroPageCrc = 0x98F94189u;
/// Bounds of a table cache.
inline constexpr size_t kTablesMax = 256;
inline constexpr size_t kTableBytesMax = 4 * 1024 * 1024;

/// The standard CRC-32C (check value of "123456789" is 0xE3069283); `seed` is that of the bytes
/// before, 0 to begin.
uint32_t Crc32c(const uint8_t* data, size_t bytes, uint32_t seed);

/// CRC-32C of each page of whole pages.
void Crc32cPages(const uint8_t* data, size_t pages, uint32_t* crcs);

/// First page whose CRC is not the expected one, or -1.
int64_t Crc32cVerify(const uint8_t* data, size_t pages, const uint32_t* expected);

/// All k + m rows of the code's matrix, k coefficients each.
std::vector<uint8_t> Matrix(int k, int m);

/// Coefficients in ISA-L's form for `rows` outputs of `sources` inputs.
struct Tables {
  int sources = 0;
  int rows = 0;
  std::vector<uint8_t> bytes;
};

/// Least recently used tables are dropped beyond the bounds. For one thread; the tables that it
/// gives are immutable and may be used by any. A reference that it returns lasts until the next
/// call; copy it to keep the tables for longer.
class TableCache {
 public:
  /// The m parity rows of a code.
  const std::shared_ptr<const Tables>& Encode(int k, int m);
  /// The rows that make fragments `want` out of the k fragments `have` (distinct indexes below k +
  /// m).
  const std::shared_ptr<const Tables>& Rebuild(int k, int m, const uint8_t* have,
                                               const uint8_t* want, int wants);
  size_t count() const { return order_.size(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const Tables> tables;
  };
  const std::shared_ptr<const Tables>* Find(const std::string& key);
  const std::shared_ptr<const Tables>& Add(std::string key, std::shared_ptr<const Tables> tables);

  std::list<Entry> order_;
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
  size_t bytes_ = 0;
};

/// One object into its parity fragments and the CRCs of all fragments.
///
///   data    | unit 0 | unit 1 | … | unit k-1 | unit 0 | …          stripe after stripe
///   parity  | fragment k: stripes units | fragment k+1 | …
///   crcs    | fragment 0: pages | fragment 1 | … | fragment k+m-1 |
struct EncodeJob {
  int k = 0;
  int m = 0;
  size_t unit_bytes = 0;
  size_t stripes = 0;
  const uint8_t* data = nullptr;
  /// Whole pages; what is missing up to stripes * k * unit_bytes counts as zeroes.
  size_t data_bytes = 0;
  uint8_t* parity = nullptr;
  /// (k + m) * stripes * unit_bytes / kPageBytes words, or null: no checksums.
  uint32_t* crcs = nullptr;
  const Tables* tables = nullptr;
};

/// Borrows all memory of the job.
void Encode(const EncodeJob& job);

/// `bytes` (whole pages) of each wanted fragment from the same range of k others.
struct RebuildJob {
  size_t bytes = 0;
  const uint8_t* sources[kFragmentsMax] = {};
  uint8_t* targets[kFragmentsMax] = {};
  const Tables* tables = nullptr;
};

void Rebuild(const RebuildJob& job);

}  // namespace ovs::erasure
