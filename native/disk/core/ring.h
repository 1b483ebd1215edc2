// SPDX-License-Identifier: Apache-2.0
// One io_uring of one thread, working on the slots of a Table (table.h) and the memory of one
// arena.
//
//   staged ──Submit──► waiting (FIFO) ──► kernel, at most kDepth ──Reap──► done
//                         ▲                        │ short, EINTR, EAGAIN
//                         └────────────────────────┘
//
// Invariants: a slot is in exactly one of: JavaScript's hands, the FIFO, the kernel. At most
// kDepth operations are in the kernel, and the completion queue has twice that room, so it cannot
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
  /** Takes a reference of each mapping. nullptr and -errno in `error` if the kernel refuses. */
  static Ring* Open(Mapping* arena, Mapping* table, int* error);
  /** Nothing may be in flight, unless Drain gave up: then the kernel keeps ring and memory. */
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  /** Takes the first `count` slots of the staged list; gives the kernel what it takes. */
  void Submit(uint32_t count);
  /**
   * Fills the done list with finished slots and returns how many; sends on what is unfinished.
   * Stops at `limit` of them, or a bundle later; the ring stays readable when it has more.
   * Reads of kind kReadTogether are held until all of them that came with one Submit have finished,
   * so that their owner is woken once.
   */
  uint32_t Reap(uint32_t limit);
  /**
   * Readable when there is something to reap. The ring itself and not an eventfd: that costs a
   * read a wake-up, 4.7 µs of CPU an operation against 4.5 at depth 32. DEFER_TASKRUN, with which
   * only an eventfd wakes, gained nothing.
   */
  int poll_fd() const { return queue_.ring_fd; }
  /** Slots that wait or are in the kernel. */
  uint32_t in_flight() const { return in_kernel_ + waiting_count_; }
  /** Drops what waits and waits for what the kernel has; false when it is not done in time. */
  bool Drain(int timeout_ms);

 private:
  Ring() = default;

  void Locate(uint32_t slot);
  void Push(uint32_t slot);
  void Flush();
  void Prepare(io_uring_sqe* sqe, uint32_t slot);
  bool Finished(uint32_t slot, int32_t result);
  void SkipPieces(uint32_t slot, uint64_t bytes);
  void Bundle(uint32_t count);
  uint32_t Tell(uint32_t slot, uint32_t done);

  io_uring queue_{};
  bool abandoned_ = false;  // The kernel did not finish in time and keeps everything.
  Mapping* arena_ = nullptr;
  Mapping* table_mapping_ = nullptr;
  Table table_{};
  uint32_t in_kernel_ = 0;
  uint32_t unsubmitted_ = 0;  // Of those, entries that the kernel has not taken yet.
  uint32_t waiting_first_ = 0;
  uint32_t waiting_count_ = 0;
  std::vector<uint32_t> waiting_;                   // A ring buffer of slots.
  std::vector<uint64_t> progress_;                  // By slot: bytes done.
  std::vector<uint32_t> first_piece_;               // By slot: the first piece not yet done.
  std::vector<uint16_t> retries_;                   // By slot: how often it was interrupted.
  std::vector<uint16_t> bundle_of_;                 // By slot of kReadTogether.
  std::vector<uint16_t> bundle_left_;               // By bundle: reads that have not finished.
  std::vector<std::vector<uint32_t>> bundle_held_;  // By bundle: those that have.
  std::vector<uint16_t> bundles_free_;
};

}  // namespace ovs::disk
