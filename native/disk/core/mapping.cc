// SPDX-License-Identifier: Apache-2.0
// See mapping.h. A registry of all living mappings serves Find: the binding gets an ArrayBuffer
// and must know that it is one of ours, and whole, before the kernel is told to write there.
#include "disk/core/mapping.h"

#include <sys/mman.h>

#include <map>
#include <mutex>

#include "common/check.h"

namespace ovs::disk {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kHugeBytes = 2 << 20;

struct Registry {
  std::mutex lock;
  std::map<const void*, Mapping*> mappings;
};

// Leaked on purpose: finalizers of worker threads may still run while static objects die.
Registry& Mappings() {
  static Registry* registry = new Registry;
  return *registry;
}

// Maps `bytes` at a multiple of kHugeBytes, by mapping more and giving the ends back.
uint8_t* MapAligned(size_t bytes) {
  size_t room = bytes + kHugeBytes;
  void* raw = mmap(nullptr, room, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  uintptr_t first = reinterpret_cast<uintptr_t>(raw);
  uintptr_t base = (first + kHugeBytes - 1) & ~(kHugeBytes - 1);
  if (base > first) munmap(raw, base - first);
  size_t behind = first + room - (base + bytes);
  if (behind > 0) munmap(reinterpret_cast<void*>(base + bytes), behind);
  return reinterpret_cast<uint8_t*>(base);
}

}  // namespace

Mapping* Mapping::Create(size_t bytes, bool huge_pages) {
  OVS_CHECK(bytes > 0 && bytes % kPageBytes == 0);
  uint8_t* base = MapAligned(bytes);
  if (base == nullptr) return nullptr;
  // Memory that the kernel does I/O into must not be copied into a child by fork.
  madvise(base, bytes, MADV_DONTFORK);
  if (huge_pages) madvise(base, bytes, MADV_HUGEPAGE);
  Mapping* mapping = new Mapping;
  mapping->base_ = base;
  mapping->bytes_ = bytes;
  Registry& registry = Mappings();
  std::lock_guard<std::mutex> guard(registry.lock);
  bool added = registry.mappings.emplace(base, mapping).second;
  OVS_CHECK(added);
  return mapping;
}

Mapping* Mapping::Find(const void* base) {
  Registry& registry = Mappings();
  std::lock_guard<std::mutex> guard(registry.lock);
  auto found = registry.mappings.find(base);
  if (found == registry.mappings.end()) return nullptr;
  found->second->references_++;
  return found->second;
}

void Mapping::Retain() {
  std::lock_guard<std::mutex> guard(Mappings().lock);
  OVS_CHECK(references_ > 0);
  references_++;
}

void Mapping::Release() {
  Registry& registry = Mappings();
  {
    std::lock_guard<std::mutex> guard(registry.lock);
    OVS_CHECK(references_ > 0);
    if (--references_ > 0) return;
    registry.mappings.erase(base_);
  }
  munmap(base_, bytes_);
  delete this;
}

}  // namespace ovs::disk
