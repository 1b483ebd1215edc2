// SPDX-License-Identifier: Apache-2.0
// The ordered key-value store: RocksDB behind a face of byte strings. Knows nothing of Node.
//
// A batch arrives in RocksDB's own wire format, made in TypeScript, and is validated before RocksDB
// sees it:
//
//   | sequence 8 (zero) | count 4, little-endian | record | record | …
//   record: 0x01 put          varint key bytes, key, varint value bytes, value
//           0x00 delete       varint key bytes, key
//           0x0f delete range varint first bytes, first, varint end bytes, end
//
// Several batches of one call become one write (group commit). Every write carries, as log data
// that lives in the write-ahead log only, the highest sequence number known to be synced; wal.h
// says what that is for. Methods may be called from any thread; Write from one at a time.
#pragma once
#include <rocksdb/cache.h>
#include <rocksdb/db.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ovs::kv {

// The numbers are those of src/native/kv.ts.
enum class Code : uint32_t {
  kOk = 0,
  kNotFound = 1,
  kBusy = 2,
  kCorrupt = 3,
  kFailed = 4,
  kInvalid = 5,
  kIncomplete = 6,  // Not in memory: ask again on the pool.
  kFull = 7,
};

struct Outcome {
  Code code = Code::kOk;
  std::string message;
  bool Ok() const { return code == Code::kOk; }
};

struct Settings {
  uint64_t cache_bytes = 0;
  uint64_t write_buffer_bytes = 0;
  bool create = false;
};

struct Stats {
  double disk_bytes = 0;
  double memory_bytes = 0;
  double keys_estimate = 0;
};

struct RangeQuery {
  std::string first;
  std::string end;
  bool has_first = false;
  bool has_end = false;
  bool reverse = false;
  uint32_t limit = 0;
};

// Answers larger than this are refused: the caller asks for fewer entries.
constexpr uint64_t kAnswerBytesMax = 64ULL << 20;
constexpr uint32_t kMissing = 0xffffffffu;
constexpr size_t kBatchHeaderBytes = 12;

enum class Tier { kMemory, kDisk };

using SnapshotRef = std::shared_ptr<const rocksdb::Snapshot>;

// Null when `batch` is well formed, else what is wrong with it. `count` gets its records.
const char* InvalidBatch(std::string_view batch, uint32_t* count);

class Store {
 public:
  static Outcome Open(const std::string& path, const Settings& settings,
                      std::shared_ptr<Store>* store);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Takes the records of several batches, header of the first one, counts summed up.
  Outcome Write(std::string&& group, bool sync);
  // Value of one key into *value; kIncomplete when `tier` is kMemory and the disk is needed,
  // or the value is empty.
  Outcome Get(const SnapshotRef& snapshot, std::string_view key, Tier tier,
              rocksdb::PinnableSlice* value) const;
  // keys: `count` times u32 bytes, key. *answer: `count` u32 lengths (kMissing), then the values.
  Outcome GetMany(const SnapshotRef& snapshot, std::string_view keys, uint32_t count, Tier tier,
                  std::string* answer) const;
  // *answer: u32 key bytes, u32 value bytes, key, value; again and again.
  Outcome Range(const SnapshotRef& snapshot, const RangeQuery& query, Tier tier,
                std::string* answer) const;
  SnapshotRef TakeSnapshot() const;
  Outcome Checkpoint(const std::string& path) const;
  Outcome Measure(Stats* stats) const;
  // Syncs what was written without sync, with a clean mark. The object is useless afterwards.
  Outcome Close();

 private:
  Store() = default;
  rocksdb::ReadOptions Reading(const SnapshotRef& snapshot, Tier tier) const;
  void Abandon();

  std::shared_ptr<rocksdb::DB> db_;
  std::shared_ptr<rocksdb::Cache> cache_;
  uint64_t synced_ = 0;
  // A write has failed: it takes no more.
  bool failed_ = false;
  // It failed in the log.
  bool log_failed_ = false;
};

// Opening, in open.cc: options, the lock, and the check of the log.
Outcome OpenDatabase(const std::string& path, const Settings& settings,
                     const std::shared_ptr<rocksdb::Cache>& cache, rocksdb::DB** db);
// A status in our words; `what` says what was tried.
Outcome FromStatus(const rocksdb::Status& status, const std::string& what);

}  // namespace ovs::kv
