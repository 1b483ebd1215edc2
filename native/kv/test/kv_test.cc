// SPDX-License-Identifier: Apache-2.0
// The core without Node: batches that must be refused, reads at both tiers, snapshots, and the log:
// every byte of it flipped once. Exits 0 when all holds, aborts where not.
#include <dirent.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/check.h"
#include "kv/core/kv.h"
#include "kv/core/wal.h"

using namespace ovs::kv;

namespace {

namespace fs = std::filesystem;

std::string root;

std::string Path(const char* name) { return root + "/" + name; }

std::string Varint(size_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>((value & 0x7f) | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

// A batch in wire format, as src/platform/node/kvbatch.ts makes it.
class Batch {
 public:
  Batch& Put(const std::string& key, const std::string& value) {
    return Add(std::string(1, '\x01') + Varint(key.size()) + key + Varint(value.size()) + value);
  }
  Batch& Delete(const std::string& key) {
    return Add(std::string(1, '\0') + Varint(key.size()) + key);
  }
  std::string Bytes() const {
    std::string bytes(8, '\0');
    bytes.append(reinterpret_cast<const char*>(&count_), 4);
    return bytes + records_;
  }

 private:
  Batch& Add(const std::string& record) {
    records_ += record;
    count_++;
    return *this;
  }
  std::string records_;
  uint32_t count_ = 0;
};

Settings MakeSettings(bool create) { return {1 << 20, 1 << 20, create}; }

std::shared_ptr<Store> MustOpen(const std::string& path) {
  std::shared_ptr<Store> store;
  OVS_CHECK(Store::Open(path, MakeSettings(true), &store).Ok());
  return store;
}

std::string Keys(const std::vector<std::string>& keys) {
  std::string packed;
  for (const std::string& key : keys) {
    const uint32_t bytes = static_cast<uint32_t>(key.size());
    packed.append(reinterpret_cast<const char*>(&bytes), 4);
    packed += key;
  }
  return packed;
}

std::string Value(const Store& store, const SnapshotRef& snapshot, const std::string& key) {
  rocksdb::PinnableSlice value;
  const Outcome outcome = store.Get(snapshot, key, Tier::kDisk, &value);
  if (outcome.code == Code::kNotFound) return "(none)";
  OVS_CHECK(outcome.Ok());
  return value.ToString();
}

void TestBatches() {
  uint32_t count = 0;
  const std::string good = Batch().Put("a", std::string(300, 'x')).Delete("b").Bytes();
  OVS_CHECK(InvalidBatch(good, &count) == nullptr && count == 2);
  OVS_CHECK(InvalidBatch(Batch().Bytes(), &count) == nullptr && count == 0);
  // Cut at any length it is refused: the count betrays what is missing.
  for (size_t bytes = 0; bytes < good.size(); bytes++) {
    OVS_CHECK(InvalidBatch(std::string_view(good).substr(0, bytes), &count) != nullptr);
  }
  // With any other tag it is refused, or reads on to another end.
  for (int tag = 0; tag < 256; tag++) {
    std::string other = good;
    other[12] = static_cast<char>(tag);
    const bool known = tag == 0x01 || tag == 0x0f;
    OVS_CHECK((InvalidBatch(other, &count) == nullptr) == known);
  }
}

void TestReads() {
  const std::shared_ptr<Store> store = MustOpen(Path("reads"));
  OVS_CHECK(store->Write(Batch().Put("a", "1").Put("b", "").Put("c", "3").Bytes(), true).Ok());
  SnapshotRef before = store->TakeSnapshot();
  OVS_CHECK(store->Write(Batch().Put("a", "2").Delete("c").Bytes(), false).Ok());
  OVS_CHECK(Value(*store, nullptr, "a") == "2" && Value(*store, before, "a") == "1");
  OVS_CHECK(Value(*store, nullptr, "c") == "(none)" && Value(*store, before, "c") == "3");
  std::string answer;
  OVS_CHECK(store->GetMany(before, Keys({"a", "x", "b"}), 3, Tier::kMemory, &answer).code ==
            Code::kIncomplete);  // What may be empty is asked for on the pool.
  OVS_CHECK(store->GetMany(before, Keys({"a", "x", "b"}), 3, Tier::kDisk, &answer).Ok());
  OVS_CHECK(answer.size() == 13 && answer[12] == '1');
  uint32_t lengths[3];
  std::memcpy(lengths, answer.data(), sizeof(lengths));
  OVS_CHECK(lengths[0] == 1 && lengths[1] == kMissing && lengths[2] == 0);
  RangeQuery query;
  query.limit = 10;
  OVS_CHECK(store->Range(before, query, Tier::kDisk, &answer).Ok());
  OVS_CHECK(answer.size() == 3 * 8 + 3 + 2);
  query.reverse = true;
  query.limit = 1;
  OVS_CHECK(store->Range(nullptr, query, Tier::kDisk, &answer).Ok());
  OVS_CHECK(answer.size() == 9 && answer[8] == 'b');
  Stats stats;
  OVS_CHECK(store->Measure(&stats).Ok() && stats.disk_bytes > 0);
  std::shared_ptr<Store> again;
  OVS_CHECK(Store::Open(Path("reads"), MakeSettings(false), &again).code == Code::kBusy);
  OVS_CHECK(Store::Open(Path("none"), MakeSettings(false), &again).code == Code::kNotFound);
  before.reset();
  OVS_CHECK(store->Close().Ok());
}

void TestCold() {
  std::shared_ptr<Store> store = MustOpen(Path("cold"));
  for (int i = 0; i < 40; i++) {
    const std::string value(60'000, static_cast<char>('a' + i % 26));
    OVS_CHECK(store->Write(Batch().Put("k" + std::to_string(i), value).Bytes(), false).Ok());
  }
  OVS_CHECK(store->Checkpoint(Path("copy")).Ok());
  OVS_CHECK(!store->Checkpoint(Path("copy")).Ok());
  OVS_CHECK(store->Close().Ok());
  store = MustOpen(Path("copy"));
  rocksdb::PinnableSlice value;
  OVS_CHECK(store->Get(nullptr, "k7", Tier::kMemory, &value).code == Code::kIncomplete);
  OVS_CHECK(Value(*store, nullptr, "k7") == std::string(60'000, 'h'));
  OVS_CHECK(store->Close().Ok());
}

std::string LogOf(const std::string& path) {
  std::string found;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".log" && entry.path().string() > found) {
      found = entry.path().string();
    }
  }
  OVS_CHECK(!found.empty());
  return found;
}

std::string ReadAll(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void WriteAll(const std::string& file, const std::string& content) {
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream << content;
  OVS_CHECK(stream.good());
}

WalFindings Inspect(const std::string& file) {
  WalFindings findings;
  OVS_CHECK(InspectWal({file}, &findings));
  return findings;
}

std::string Key(int i) { return "k" + std::to_string(100'000 + i); }

std::string ValueOf(int i) { return std::string(8'000, static_cast<char>('a' + i % 26)); }

// RocksDB opens but some tables of a store when it opens it. A read that must not wait says so for
// the others; it never finds an empty value there.
void TestTablesNotOpen() {
  constexpr int kCount = 5'000;
  std::shared_ptr<Store> store = MustOpen(Path("tables"));
  for (int i = 0; i < kCount; i += 2) {
    OVS_CHECK(store->Write(Batch().Put(Key(i), ValueOf(i)).Bytes(), false).Ok());
  }
  OVS_CHECK(store->Close().Ok());
  store = MustOpen(Path("tables"));
  int incomplete = 0;
  for (int i = 0; i < kCount; i++) {
    rocksdb::PinnableSlice value;
    const Outcome quick = store->Get(nullptr, Key(i), Tier::kMemory, &value);
    if (quick.code == Code::kIncomplete) {
      incomplete++;
    } else if (i % 2 == 0) {
      OVS_CHECK(quick.Ok() && value.ToString() == ValueOf(i));
    } else {
      OVS_CHECK(quick.code == Code::kNotFound);
    }
  }
  OVS_CHECK(incomplete > 0);
  for (int i = 0; i < kCount; i += 7) {
    OVS_CHECK(Value(*store, nullptr, Key(i)) == (i % 2 == 0 ? ValueOf(i) : "(none)"));
  }
  OVS_CHECK(store->Close().Ok());
}

// Tables with a whole index and a whole filter, as older versions wrote them.
void TestWholeFilters() {
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::Options options;
  options.create_if_missing = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::DB* made = nullptr;
  OVS_CHECK(rocksdb::DB::Open(options, Path("whole"), &made).ok());
  std::unique_ptr<rocksdb::DB> db(made);
  for (int i = 0; i < 500; i++) {
    OVS_CHECK(db->Put(rocksdb::WriteOptions(), Key(i), ValueOf(i)).ok());
  }
  OVS_CHECK(db->Flush(rocksdb::FlushOptions()).ok() && db->Close().ok());
  db.reset();
  std::shared_ptr<Store> store;
  OVS_CHECK(Store::Open(Path("whole"), MakeSettings(false), &store).Ok());
  OVS_CHECK(store->Write(Batch().Put(Key(3), "new").Bytes(), false).Ok());
  for (int i = 0; i < 501; i++) {
    const std::string wanted = i == 500 ? "(none)" : i == 3 ? "new" : ValueOf(i);
    OVS_CHECK(Value(*store, nullptr, Key(i)) == wanted);
  }
  OVS_CHECK(store->Close().Ok());
}

// What a crash leaves: entries 1 to 6 in the log, each synced, the last one not yet vouched for.
void TestLog() {
  const std::shared_ptr<Store> store = MustOpen(Path("log"));
  for (int i = 1; i <= 6; i++) {
    const Batch batch = Batch().Put("k" + std::to_string(i), std::string(40, 'v'));
    OVS_CHECK(store->Write(batch.Bytes(), true).Ok());
  }
  fs::copy(Path("log"), Path("crash"), fs::copy_options::recursive);
  OVS_CHECK(store->Close().Ok());
  const std::string log = LogOf(Path("crash"));
  const std::string content = ReadAll(log);
  const WalFindings whole = Inspect(log);
  OVS_CHECK(whole.regular && whole.synced == 5);
  const std::string file = Path("damaged.log");
  const size_t record = content.size() / 6;
  for (size_t at = 0; at < content.size(); at++) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    WriteAll(file, damaged);
    const WalFindings findings = Inspect(file);
    OVS_CHECK(!findings.regular && !findings.where.empty());
    // The last record's mark vouches for all before; without it the one before vouches for 4.
    OVS_CHECK(findings.synced == (at < 5 * record ? 5 : 4));
  }
  for (size_t bytes = 0; bytes < content.size(); bytes++) {
    WriteAll(file, content.substr(0, bytes));
    OVS_CHECK(Inspect(file).regular == (bytes % record == 0));
  }
  // A record that is gone without a trace is missed by the number of the next.
  WriteAll(file, content.substr(0, record) + content.substr(2 * record));
  OVS_CHECK(!Inspect(file).regular);
}

void TestDamagedStore() {
  const std::string log = LogOf(Path("crash"));
  const std::string content = ReadAll(log);
  const size_t record = content.size() / 6;
  for (const size_t at : {size_t{3}, record + 20, 4 * record + 50, 5 * record + 50}) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    WriteAll(log, damaged);
    std::shared_ptr<Store> store;
    const Outcome outcome = Store::Open(Path("crash"), MakeSettings(false), &store);
    if (at < 5 * record) {
      OVS_CHECK(outcome.code == Code::kCorrupt);
      OVS_CHECK(ReadAll(log) == damaged);  // A refused store stays as it is.
      continue;
    }
    OVS_CHECK(outcome.Ok());
    OVS_CHECK(Value(*store, nullptr, "k5") != "(none)" && Value(*store, nullptr, "k6") == "(none)");
    OVS_CHECK(store->Close().Ok());
  }
}

void TestCrc() {
  OVS_CHECK(Crc32c(reinterpret_cast<const uint8_t*>("123456789"), 9) == 0xE3069283u);
  OVS_CHECK(Crc32c(nullptr, 0) == 0);
}

}  // namespace

int main() {
  char name[] = "/tmp/ovs-kv-test-XXXXXX";
  OVS_CHECK(mkdtemp(name) != nullptr);
  root = name;
  TestCrc();
  TestBatches();
  TestReads();
  TestCold();
  TestTablesNotOpen();
  TestWholeFilters();
  TestLog();
  TestDamagedStore();
  fs::remove_all(root);
  std::puts("kv: all holds");
  return 0;
}
