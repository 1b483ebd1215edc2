// SPDX-License-Identifier: Apache-2.0
#include "transport/core/pool.h"

#include <algorithm>

#include "common/check.h"

namespace ovs::transport {

Pool::Pool(size_t offset, size_t bytes)
    : offset_(offset),
      pages_(bytes / kPageBytes),
      free_pages_(bytes / kPageBytes),
      taken_(bytes / kPageBytes, 0) {
  OVS_CHECK(offset > 0 && offset % kPageBytes == 0 && bytes % kPageBytes == 0);
  if (pages_ > 0) free_.push_back({0, static_cast<uint32_t>(pages_)});
}

size_t Pool::Take(size_t bytes) {
  OVS_CHECK(bytes > 0);
  const size_t need = (bytes + kPageBytes - 1) / kPageBytes;
  if (need > free_pages_) return 0;
  for (auto run = free_.begin(); run != free_.end(); ++run) {
    if (run->pages < need) continue;
    const uint32_t first = run->first;
    run->first += static_cast<uint32_t>(need);
    run->pages -= static_cast<uint32_t>(need);
    if (run->pages == 0) free_.erase(run);
    taken_[first] = static_cast<uint32_t>(need);
    free_pages_ -= need;
    return offset_ + first * kPageBytes;
  }
  return 0;
}

bool Pool::Give(size_t offset) {
  if (offset < offset_ || (offset - offset_) % kPageBytes != 0) return false;
  const size_t page = (offset - offset_) / kPageBytes;
  if (page >= pages_ || taken_[page] == 0) return false;
  const Run given = {static_cast<uint32_t>(page), taken_[page]};
  taken_[page] = 0;
  free_pages_ += given.pages;
  auto next = std::lower_bound(free_.begin(), free_.end(), given,
                               [](const Run& a, const Run& b) { return a.first < b.first; });
  const bool joins_next = next != free_.end() && given.first + given.pages == next->first;
  if (next != free_.begin()) {
    auto before = next - 1;
    OVS_CHECK(before->first + before->pages <= given.first);
    if (before->first + before->pages == given.first) {
      before->pages += given.pages;
      if (joins_next) {
        before->pages += next->pages;
        free_.erase(next);
      }
      return true;
    }
  }
  if (joins_next) {
    next->first = given.first;
    next->pages += given.pages;
  } else {
    free_.insert(next, given);
  }
  return true;
}

}  // namespace ovs::transport
