// SPDX-License-Identifier: Apache-2.0
// Anonymous memory that the kernel writes into behind our back: arenas and operation tables. It
// is shared by its JavaScript ArrayBuffer and the ring that does I/O on it, and goes back to the
// system only when both have let go, so that no completion can hit memory that is somebody else's.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ovs::disk {

class Mapping {
 public:
  /** Maps zeroed, untouched memory with one reference, the caller's; nullptr: there is none. */
  static Mapping* Create(size_t bytes, bool huge_pages);
  /** The mapping that begins at `base`, with one more reference; nullptr if there is none. */
  static Mapping* Find(const void* base);

  void Retain();
  /** Gives one reference back; the last one unmaps. */
  void Release();

  uint8_t* base() const { return base_; }
  size_t bytes() const { return bytes_; }

 private:
  Mapping() = default;

  uint8_t* base_ = nullptr;
  size_t bytes_ = 0;
  uint32_t references_ = 1;  // Guarded by the registry's lock.
};

}  // namespace ovs::disk
