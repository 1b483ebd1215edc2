// SPDX-License-Identifier: Apache-2.0
// One io_uring of one thread, working on the slots of a Table (table.h) and the memory of one
// arena.
//
//   staged ──Submit──► waiting (FIFO) ──► kernel, at most kDepth ──Reap──► done
//                         ▲                        │ short, EINTR, EAGAIN
//                         └────────────────────────┘
//
// Invariants: a slot is in exactly one of: JavaScript's hands, the FIFO, the kernel. At most kDepth
// operations are in the kernel, and the completion queue has twice that room, so it cannot
// overflow. All calls come from the thread that opened the ring.
#pragma once
#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "disk/core/mapping.h"
#include "disk/core/table.h"

namespace ovs::disk {

constexpr uint32_t kDepth = 1024;

class Ring {
 public:
  /** Takes one reference of each mapping. nullptr and -errno in `error` when the kernel refuses. */
  static Ring* Open(Mapping* arena, Mapping* table, int* error);
  /** Nothing may be in flight, unless `Drain` gave up: then ring and memory are left to the kernel.
   */
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  /** Takes the first `count` slots of the staged list and hands to the kernel what it takes. */
  void Submit(uint32_t count);
  /** Fills the done list with finished slots; returns how many. Resubmits what is not finished. */
  uint32_t Reap();
  /** Becomes readable when there is something to reap. */
  int poll_fd() const { return ring_.ring_fd; }
  /** Slots that are waiting or in the kernel. */
  uint32_t in_flight() const { return in_kernel_ + waiting_count_; }
  /** Drops what waits and waits for what the kernel has; false when it is not done in time. */
  bool Drain(int timeout_ms);

 private:
  Ring() = default;

  void Push(uint32_t slot);
  void Flush();
  void Prepare(io_uring_sqe* sqe, uint32_t slot);
  bool Finished(uint32_t slot, int32_t result);
  void SkipPieces(uint32_t slot, uint64_t bytes);

  io_uring ring_{};
  Mapping* arena_ = nullptr;
  Mapping* table_mapping_ = nullptr;
  Table table_{};
  bool abandoned_ = false;
  uint32_t in_kernel_ = 0;
  uint32_t unsubmitted_ = 0;  // Entries in the submission queue that the kernel has not taken.
  uint32_t waiting_first_ = 0;
  uint32_t waiting_count_ = 0;
  std::vector<uint32_t> waiting_;
  std::vector<uint64_t> progress_;     // Bytes done of each slot.
  std::vector<uint32_t> first_piece_;  // Of gathered ones: the first piece not yet done.
  std::vector<uint16_t> retries_;
};

}  // namespace ovs::disk
