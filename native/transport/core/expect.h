// SPDX-License-Identifier: Apache-2.0
// Where the payloads of awaited responses go: request id → pieces of memory. Open addressing, no
// allocation a request unless a payload has many pieces.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/core/frame.h"

namespace ovs::transport {

class ExpectTable {
 public:
  static constexpr size_t kInline = 2;

  struct Entry {
    uint64_t id = kFree;
    size_t bytes = 0;
    size_t count = 0;
    Piece first[kInline] = {};
    std::vector<Piece> more;  // All of them when there are more than kInline.

    const Piece* pieces() const { return count <= kInline ? first : more.data(); }
  };

  size_t size() const { return size_; }

  /// Copies the list; replaces an older one of that id.
  void Put(uint64_t id, const Piece* pieces, size_t count);

  /// The entry of an id, or null; valid until the next Put or Erase.
  const Entry* Find(uint64_t id) const;

  bool Erase(uint64_t id);

 private:
  static constexpr uint64_t kFree = UINT64_MAX;

  size_t Home(uint64_t id) const { return (id * 0x9e3779b97f4a7c15ull) >> shift_; }
  size_t Slot(uint64_t id) const;
  void Grow();

  std::vector<Entry> entries_;
  size_t size_ = 0;
  int shift_ = 64;
};

}  // namespace ovs::transport
