// SPDX-License-Identifier: Apache-2.0
// Any bytes as a batch: refused, or RocksDB reads the same number of records out of it.
#include <rocksdb/write_batch.h>

#include "common/check.h"
#include "kv/core/kv.h"

namespace {

class Counter : public rocksdb::WriteBatch::Handler {
 public:
  rocksdb::Status PutCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override {
    return Count();
  }
  rocksdb::Status DeleteCF(uint32_t, const rocksdb::Slice&) override { return Count(); }
  rocksdb::Status DeleteRangeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override {
    return Count();
  }
  uint32_t count = 0;

 private:
  rocksdb::Status Count() {
    count++;
    return rocksdb::Status::OK();
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const std::string_view batch(reinterpret_cast<const char*>(data), bytes);
  uint32_t count = 0;
  if (ovs::kv::InvalidBatch(batch, &count) != nullptr) return 0;
  const rocksdb::WriteBatch theirs{std::string(batch)};
  Counter counter;
  OVS_CHECK(theirs.Iterate(&counter).ok());
  OVS_CHECK(counter.count == count);
  return 0;
}
