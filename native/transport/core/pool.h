// SPDX-License-Identifier: Apache-2.0
// The receive pool: runs of 4 KiB pages in one region of the arena, first fit, for payloads that
// nobody expects. Free runs are kept sorted by place and never touch each other.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ovs::transport {

class Pool {
 public:
  static constexpr size_t kPageBytes = 4096;

  /// A region at arena offset `offset` (not 0) of `bytes`, both whole pages.
  Pool(size_t offset, size_t bytes);

  size_t bytes() const { return pages_ * kPageBytes; }
  size_t free_bytes() const { return free_pages_ * kPageBytes; }

  /// Arena offset of a run of at least `bytes` (> 0); 0 when there is none now.
  size_t Take(size_t bytes);

  /// Gives a run back by its offset; false when no run begins there.
  bool Give(size_t offset);

 private:
  struct Run {
    uint32_t first;
    uint32_t pages;
  };

  size_t offset_;
  size_t pages_;
  size_t free_pages_;
  std::vector<Run> free_;
  std::vector<uint32_t> taken_;  // Pages of the run that begins at a page, 0: none does.
};

}  // namespace ovs::transport
