// SPDX-License-Identifier: Apache-2.0
// Reads, writes and the life of a store. See kv.h.
#include "kv/core/kv.h"

#include <rocksdb/convenience.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>

#include <cstring>

#include "common/check.h"
#include "kv/core/wal.h"

namespace ovs::kv {

namespace {

constexpr uint8_t kTagDelete = 0x00;
constexpr uint8_t kTagPut = 0x01;
constexpr uint8_t kTagDeleteRange = 0x0f;
// A read that must not wait skips at most this many deleted entries.
constexpr uint64_t kSkippedMax = 1000;
// A shard of the cache holds a few whole filters of tables that older versions wrote.
constexpr uint64_t kShardBytesMin = 4ULL << 20;
constexpr int kShardBitsMax = 4;

void AppendU32(std::string* target, uint32_t value) {
  char bytes[4];
  std::memcpy(bytes, &value, 4);
  target->append(bytes, 4);
}

uint32_t ReadU32(const char* from) {
  uint32_t value;
  std::memcpy(&value, from, 4);
  return value;
}

// Skips a varint length and that many bytes; false when they do not fit.
bool SkipSlice(std::string_view batch, size_t* at) {
  uint64_t length = 0;
  for (unsigned shift = 0;; shift += 7) {
    if (shift > 28 || *at >= batch.size()) return false;
    const uint8_t byte = static_cast<uint8_t>(batch[(*at)++]);
    length |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) break;
  }
  if (length > batch.size() - *at) return false;
  *at += length;
  return true;
}

int ShardBits(uint64_t cache_bytes) {
  int bits = 0;
  while (bits < kShardBitsMax && cache_bytes >> (bits + 1) >= kShardBytesMin) bits++;
  return bits;
}

}  // namespace

const char* InvalidBatch(std::string_view batch, uint32_t* count) {
  if (batch.size() < kBatchHeaderBytes) return "a batch is shorter than its header";
  for (size_t i = 0; i < 8; i++) {
    if (batch[i] != 0) return "a batch names a sequence number";
  }
  const uint32_t declared = ReadU32(batch.data() + 8);
  uint32_t found = 0;
  size_t at = kBatchHeaderBytes;
  while (at < batch.size()) {
    const uint8_t tag = static_cast<uint8_t>(batch[at++]);
    if (tag != kTagPut && tag != kTagDelete && tag != kTagDeleteRange) {
      return "a batch has a record of an unknown kind";
    }
    if (!SkipSlice(batch, &at)) return "a batch ends inside a key";
    if (tag != kTagDelete && !SkipSlice(batch, &at)) return "a batch ends inside a value";
    found++;
  }
  if (found != declared) return "a batch counts its records wrong";
  *count = found;
  return nullptr;
}

Outcome FromStatus(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return {};
  Code code = status.IsNoSpace() ? Code::kFull : Code::kFailed;
  if (status.IsCorruption()) code = Code::kCorrupt;
  if (status.IsNotFound()) code = Code::kNotFound;
  if (status.IsIncomplete()) code = Code::kIncomplete;
  if (status.IsInvalidArgument()) code = Code::kInvalid;
  return {code, what + ": " + status.ToString()};
}

Outcome Store::Open(const std::string& path, const Settings& settings,
                    std::shared_ptr<Store>* store) {
  std::shared_ptr<Store> opened(new Store());
  opened->cache_ = rocksdb::NewLRUCache(settings.cache_bytes, ShardBits(settings.cache_bytes));
  rocksdb::DB* db = nullptr;
  Outcome outcome = OpenDatabase(path, settings, opened->cache_, &db);
  if (!outcome.Ok()) return outcome;
  OVS_CHECK(db != nullptr);
  opened->db_.reset(db);
  *store = std::move(opened);
  return {};
}

Store::~Store() {
  if (log_failed_) Abandon();
}

void Store::Abandon() {
  if (db_ == nullptr) return;
  // Closing it would flush the log whose write has failed, which RocksDB asserts not to happen. It
  // stays open, and its folder locked, until the process ends; nothing works in it any more.
  rocksdb::CancelAllBackgroundWork(db_.get(), true);
  new std::shared_ptr<rocksdb::DB>(std::move(db_));
}

Outcome Store::Write(std::string&& group, bool sync) {
  if (failed_) return {Code::kFailed, "an earlier write failed, the store takes no more"};
  OVS_CHECK(group.size() >= kBatchHeaderBytes);
  AppendSyncedMark(&group, synced_);
  rocksdb::WriteBatch batch(std::move(group));
  rocksdb::WriteOptions options;
  options.sync = sync;
  const rocksdb::Status status = db_->Write(options, &batch);
  if (!status.ok()) {
    failed_ = true;
    log_failed_ = status.IsIOError();
    return FromStatus(status, "cannot write");
  }
  if (sync) synced_ = db_->GetLatestSequenceNumber();
  return {};
}

rocksdb::ReadOptions Store::Reading(const SnapshotRef& snapshot, Tier tier) const {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot.get();
  options.verify_checksums = true;
  if (tier == Tier::kMemory) {
    options.read_tier = rocksdb::kBlockCacheTier;
    options.max_skippable_internal_keys = kSkippedMax;
  }
  return options;
}

Outcome Store::Get(const SnapshotRef& snapshot, std::string_view key, Tier tier,
                   rocksdb::PinnableSlice* value) const {
  const rocksdb::Status status = db_->Get(Reading(snapshot, tier), db_->DefaultColumnFamily(),
                                          rocksdb::Slice(key.data(), key.size()), value);
  // RocksDB says "found" and gives nothing where the table that may have the key is not open and
  // must not be read. A value that really is empty is asked for again as well.
  if (status.ok() && tier == Tier::kMemory && value->empty()) return {Code::kIncomplete, {}};
  if (status.ok()) return {};
  if (status.IsNotFound()) return {Code::kNotFound, {}};
  if (status.IsIncomplete()) return {Code::kIncomplete, {}};
  return FromStatus(status, "cannot read");
}

Outcome Store::GetMany(const SnapshotRef& snapshot, std::string_view keys, uint32_t count,
                       Tier tier, std::string* answer) const {
  // Without a snapshot of the caller's the keys could be read from both sides of one batch.
  const SnapshotRef view = snapshot || count < 2 ? snapshot : TakeSnapshot();
  answer->assign(static_cast<size_t>(count) * 4, '\0');
  size_t at = 0;
  for (uint32_t i = 0; i < count; i++) {
    OVS_CHECK(at + 4 <= keys.size());
    const uint32_t bytes = ReadU32(keys.data() + at);
    at += 4;
    OVS_CHECK(bytes <= keys.size() - at);
    rocksdb::PinnableSlice value;
    Outcome outcome = Get(view, keys.substr(at, bytes), tier, &value);
    at += bytes;
    if (!outcome.Ok() && outcome.code != Code::kNotFound) return outcome;
    const uint32_t length = outcome.Ok() ? static_cast<uint32_t>(value.size()) : kMissing;
    std::memcpy(answer->data() + static_cast<size_t>(i) * 4, &length, 4);
    if (outcome.Ok()) answer->append(value.data(), value.size());
    if (answer->size() > kAnswerBytesMax) {
      return {Code::kInvalid, "the answer exceeds 64 MiB, ask for fewer keys"};
    }
  }
  OVS_CHECK(at == keys.size());
  return {};
}

Outcome Store::Range(const SnapshotRef& snapshot, const RangeQuery& query, Tier tier,
                     std::string* answer) const {
  rocksdb::ReadOptions options = Reading(snapshot, tier);
  const rocksdb::Slice first(query.first);
  const rocksdb::Slice end(query.end);
  if (query.has_first) options.iterate_lower_bound = &first;
  if (query.has_end) options.iterate_upper_bound = &end;
  answer->clear();
  std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(options));
  if (query.reverse) {
    iterator->SeekToLast();
  } else {
    iterator->SeekToFirst();
  }
  for (uint32_t i = 0; i < query.limit && iterator->Valid(); i++) {
    const rocksdb::Slice key = iterator->key();
    const rocksdb::Slice value = iterator->value();
    AppendU32(answer, static_cast<uint32_t>(key.size()));
    AppendU32(answer, static_cast<uint32_t>(value.size()));
    answer->append(key.data(), key.size());
    answer->append(value.data(), value.size());
    if (answer->size() > kAnswerBytesMax) {
      return {Code::kInvalid, "the answer exceeds 64 MiB, ask for fewer entries"};
    }
    if (i + 1 == query.limit) break;
    if (query.reverse) {
      iterator->Prev();
    } else {
      iterator->Next();
    }
  }
  return FromStatus(iterator->status(), "cannot read a range");
}

SnapshotRef Store::TakeSnapshot() const {
  const std::shared_ptr<rocksdb::DB> db = db_;
  return SnapshotRef(db->GetSnapshot(),
                     [db](const rocksdb::Snapshot* snapshot) { db->ReleaseSnapshot(snapshot); });
}

Outcome Store::Checkpoint(const std::string& path) const {
  rocksdb::Checkpoint* made = nullptr;
  rocksdb::Status status = rocksdb::Checkpoint::Create(db_.get(), &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  if (status.ok()) status = checkpoint->CreateCheckpoint(path);
  return FromStatus(status, "cannot make a checkpoint in " + path);
}

Outcome Store::Measure(Stats* stats) const {
  uint64_t number = 0;
  const auto property = [&](const char* name) {
    return db_->GetIntProperty(name, &number) ? static_cast<double>(number) : 0.0;
  };
  stats->disk_bytes = property("rocksdb.total-sst-files-size");
  rocksdb::VectorLogPtr logs;
  const rocksdb::Status status = db_->GetSortedWalFiles(logs);
  for (const auto& log : logs) stats->disk_bytes += static_cast<double>(log->SizeFileBytes());
  stats->memory_bytes = property("rocksdb.cur-size-all-mem-tables") +
                        property("rocksdb.estimate-table-readers-mem") +
                        static_cast<double>(cache_->GetUsage());
  stats->keys_estimate = property("rocksdb.estimate-num-keys");
  return FromStatus(status, "cannot measure");
}

Outcome Store::Close() {
  Outcome outcome;
  if (!failed_) {
    // The first write syncs everything; the second one carries the mark that says so.
    for (int i = 0; i < 2 && outcome.Ok(); i++) {
      outcome = Write(std::string(kBatchHeaderBytes, '\0'), true);
    }
  }
  if (log_failed_) {
    Abandon();
    return outcome;
  }
  const rocksdb::Status status = db_->Close();
  db_.reset();
  if (!outcome.Ok()) return outcome;
  return FromStatus(status, "cannot close");
}

}  // namespace ovs::kv
