// SPDX-License-Identifier: Apache-2.0
// The slots of one thread and who may use them. Knows neither sockets nor Node.
//
// A slot is 33 clusters of arena memory and one row of the shared arrays. Its life:
//
//   Free ──admit──► Filling ──bytes are here──► Admitted ──complete()──► Done ──sent──► Free
//                      (ours)                   (the target's)             (ours)
//
// A request holds all of its slots or none. Whoever finds too few waits in `waiters_`, in order,
// and nobody overtakes: a large request is not starved by small ones. Invariants between calls:
// free + taken = all; while somebody waits, the first one's need is larger than what is free.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "nbd/core/wire.h"

namespace ovs::nbd {

constexpr uint32_t kClusterBytes = 4096;
constexpr uint32_t kSlotClusters = 33;
constexpr uint32_t kSlotBytes = kSlotClusters * kClusterBytes;
constexpr uint32_t kPartBytes = 32 * kClusterBytes;
constexpr uint32_t kRequestBytesMax = 32 << 20;
constexpr uint32_t kStagingBytes = 256 << 10;
constexpr uint32_t kReplyHeaderMax = 128;
constexpr uint32_t kNone = UINT32_MAX;

class Session;

/** The typed arrays that JavaScript reads; each has a row per slot (crcs: kSlotClusters rows). */
struct SlotArrays {
  uint8_t* kind;
  uint16_t* flags;
  double* offset;
  double* length;
  uint32_t* memory;
  uint32_t* crcs;
  uint32_t* cookie_low;
  uint32_t* cookie_high;
  uint32_t* connection;
  uint32_t* target;
  uint32_t* ready;   // Slots to admit, filled between two TakeReady().
  uint32_t* staged;  // Pairs (slot, result) that JavaScript completes, see Complete().
};

enum class SlotState : uint8_t { Free, Filling, Admitted, Done };

/** What native code knows of a slot. JavaScript cannot reach it, so memory safety rests on it
 * alone. */
struct Slot {
  Session* session;  // Null once the session has ended.
  uint64_t offset;   // Of this part; of the whole request in the first slot's `request_*`.
  uint32_t bytes;    // Payload of this part in the slot's memory.
  uint32_t shift;    // Where in the slot's memory the payload begins.
  uint32_t first;    // The request's first slot.
  uint32_t next;     // The request's next part, or kNone.
  SlotState state;
  // Of the request; meaningful in its first slot.
  uint16_t type;
  uint16_t request_flags;
  uint16_t header_bytes;
  uint32_t pending;      // Parts that are not done.
  uint32_t error;        // The first error, an Errno.
  uint32_t reply_bytes;  // Payload that follows the reply's header.
  uint32_t next_output;  // Next reply of the session, or kNone.
  uint64_t cookie;
  uint64_t request_offset;
  uint64_t request_bytes;
  uint8_t header[kReplyHeaderMax];
};

struct Target {
  uint64_t size_bytes;
  bool read_only;
  bool alive;  // False: new requests are answered ESHUTDOWN.
  bool used;
};

struct Counters {
  uint64_t requests;
  uint64_t errors;
  uint64_t bytes_in;
  uint64_t bytes_out;
  uint64_t waits;  // Requests that found too few slots.
};

class Engine {
 public:
  /** `memory`: `slots` × kSlotBytes at arena offset `memory_offset`, aligned to clusters. */
  Engine(uint8_t* memory, uint32_t memory_offset, uint32_t slots, const SlotArrays& arrays);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  uint32_t slots() const { return slots_; }
  uint32_t free() const { return static_cast<uint32_t>(free_.size()); }
  /** Largest READ or WRITE: all of its slots exist. A power of two. */
  uint32_t request_bytes_max() const { return request_bytes_max_; }
  size_t waiting() const { return waiters_.size(); }
  uint8_t* staging() { return staging_; }
  Counters& counters() { return counters_; }
  Slot& slot(uint32_t index) { return table_[index]; }
  uint8_t* SlotMemory(uint32_t index) { return memory_ + size_t{index} * kSlotBytes; }

  void SetTarget(uint32_t id, uint64_t size_bytes, bool read_only, bool alive);
  void ForgetTarget(uint32_t id);
  const Target* FindTarget(uint32_t id) const;

  /** Slots that a request needs whose payload goes through memory. */
  static uint32_t PartsOf(uint64_t offset, uint64_t bytes);

  /** True when the caller may take `count` slots now; else it waits its turn and is resumed. */
  bool Admit(Session* session, uint32_t count);
  /** Takes a slot; only after Admit() said yes. */
  uint32_t Take();
  void Free(uint32_t index);
  /** Hands a slot to the target: it is in the list that the next callback brings. */
  void MakeReady(uint32_t index);
  /** Ready slots since the last call; their numbers are in arrays.ready. */
  uint32_t TakeReady();
  uint32_t ready() const { return ready_count_; }

  /** Carries out arrays.staged[0 … 2 × count): results of the target. */
  void Complete(uint32_t count);
  /** Gives freed slots to those who wait. Call after slots may have become free. */
  void Pump();

  /** Sessions that have something to send or want to read again since the last call; each once. */
  void MarkDirty(Session* session);
  std::vector<Session*>& dirty() { return dirty_; }
  /** Gives up a request that will not be answered: frees what the target does not hold. */
  void Abandon(uint32_t first);
  void StopWaiting(Session* session);
  /** Gives up all requests of a session. */
  void Forget(Session* session);

  /** Writes the row of a slot into the shared arrays. */
  void Publish(uint32_t index, uint16_t flags, uint32_t connection, uint32_t target);
  /** CRC-32C of the whole clusters of a write's part, into arrays.crcs. */
  void Checksum(uint32_t index);

 private:
  void CompleteOne(uint32_t index, uint32_t result);
  void Orphan(uint32_t index);

  uint8_t* memory_;
  uint32_t memory_offset_;
  uint32_t slots_;
  uint32_t request_bytes_max_;
  SlotArrays arrays_;
  uint8_t* staging_;
  std::vector<Slot> table_;
  std::vector<uint32_t> free_;
  std::vector<Target> targets_;
  std::deque<Session*> waiters_;
  std::vector<Session*> dirty_;
  uint32_t ready_count_ = 0;
  bool pumping_ = false;
  Counters counters_ = {};
};

}  // namespace ovs::nbd
