// SPDX-License-Identifier: Apache-2.0
#include "transport/core/expect.h"

#include <utility>

#include "common/check.h"

namespace ovs::transport {

namespace {
constexpr int kFirstBits = 6;
}  // namespace

size_t ExpectTable::Slot(uint64_t id) const {
  const size_t mask = entries_.size() - 1;
  size_t slot = Home(id);
  while (entries_[slot].id != kFree && entries_[slot].id != id) slot = (slot + 1) & mask;
  return slot;
}

void ExpectTable::Grow() {
  std::vector<Entry> old = std::move(entries_);
  const int bits = old.empty() ? kFirstBits : 64 - shift_ + 1;
  entries_ = std::vector<Entry>(size_t{1} << bits);
  shift_ = 64 - bits;
  for (Entry& entry : old) {
    if (entry.id != kFree) entries_[Slot(entry.id)] = std::move(entry);
  }
}

void ExpectTable::Put(uint64_t id, const Piece* pieces, size_t count) {
  OVS_CHECK(id != kFree && count > 0);
  if (2 * (size_ + 1) > entries_.size()) Grow();
  Entry& entry = entries_[Slot(id)];
  if (entry.id == kFree) size_++;
  entry.id = id;
  entry.count = count;
  entry.bytes = 0;
  if (count > kInline) entry.more.assign(pieces, pieces + count);
  for (size_t i = 0; i < count; i++) {
    if (count <= kInline) entry.first[i] = pieces[i];
    entry.bytes += pieces[i].bytes;
  }
}

const ExpectTable::Entry* ExpectTable::Find(uint64_t id) const {
  if (size_ == 0) return nullptr;
  const Entry& entry = entries_[Slot(id)];
  return entry.id == id ? &entry : nullptr;
}

bool ExpectTable::Erase(uint64_t id) {
  if (size_ == 0) return false;
  const size_t mask = entries_.size() - 1;
  size_t hole = Slot(id);
  if (entries_[hole].id != id) return false;
  // Entries behind the hole that belong at or before it move up, so that no search stops early.
  for (size_t next = (hole + 1) & mask; entries_[next].id != kFree; next = (next + 1) & mask) {
    const size_t home = Home(entries_[next].id);
    if (((next - home) & mask) < ((next - hole) & mask)) continue;
    std::swap(entries_[hole], entries_[next]);
    hole = next;
  }
  entries_[hole].id = kFree;
  entries_[hole].more.clear();
  size_--;
  return true;
}

}  // namespace ovs::transport
