// SPDX-License-Identifier: Apache-2.0
// The transmission phase of one connection: bytes in become slots, finished slots become bytes
// out. A state machine that reads and writes no socket: whoever owns the socket asks where the
// next bytes should go, says how many came, asks what to send, says how much went.
//
//        ┌────────────► Header ──request──► (too few slots) ──► Waiting ─┐
//        │                 │  ◄───────────────────────────────────────────┘
//        │   WRITE, slots taken│            │WRITE that is refused
//        └──all parts here── Payload      Discard ──all thrown away, error reply──► Header
//
//   Draining: nothing more is read (DISC, shutdown); ends when the last reply has been sent.
//
// Payload of any size is received into its slot directly when its header is known before the
// bytes are taken from the socket; many small writes arrive in one piece in the staging buffer
// and are copied to their slots, which is cheaper than a system call each.
#pragma once
#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "nbd/core/engine.h"

namespace ovs::nbd {

class Session {
 public:
  enum class State : uint8_t { Header, Waiting, Payload, Discard, Draining, Ended };

  Session(Engine& engine, uint32_t connection, uint32_t target, Mode mode, bool allocation);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  State state() const { return state_; }
  /** Why the session had to end, for the log; null while it lives or was ended by others. */
  const char* reason() const { return reason_; }
  uint32_t connection() const { return connection_; }
  uint32_t target() const { return target_; }
  bool wants_input() const;
  bool has_output() const { return output_first_ != kNone; }
  /** Requests that hold slots. */
  uint32_t in_flight() const { return in_flight_; }
  /** True when nothing is left to do: the socket may be closed. */
  bool finished() const;
  /** True while the other side keeps slots of ours busy: by a payload or by replies not taken. */
  bool holds_slots_idle() const { return state_ == State::Payload || has_output(); }

  /** Where the next bytes go. Uses the engine's staging buffer: Received() must follow at once. */
  uint32_t InputVectors(iovec* vectors, uint32_t max);
  /** `bytes` have come to the places that InputVectors() named. */
  void Received(size_t bytes);
  /** Bytes that were read with the negotiation. */
  void Preload(const uint8_t* bytes, size_t count);

  /** What to send next; empty when there is nothing. */
  uint32_t OutputVectors(iovec* vectors, uint32_t max);
  void Sent(size_t bytes);

  /** No more requests are read; the ones in flight are answered. */
  void Drain();
  /** Ends at once: slots that the target does not hold are free, its replies will be dropped. */
  void End(const char* reason);

  // For the engine.
  uint32_t need() const { return need_; }
  void Resume();
  void RequestDone(uint32_t first);
  bool dirty = false;

  /** For the socket's owner: its own object, and a number that changes when the other side moves.
   */
  void* owner = nullptr;
  uint64_t progress = 0;

 private:
  struct Request {
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint64_t bytes;
    uint64_t payload_bytes;  // That follow the header on the wire.
    uint32_t error;
  };

  uint32_t header_bytes() const {
    return mode_ == Mode::Extended ? kExtendedRequestBytes : kRequestBytes;
  }
  void Parse(const uint8_t* bytes, size_t count);
  size_t ParseHeader(const uint8_t* bytes, size_t count);
  size_t ParsePayload(const uint8_t* bytes, size_t count);
  bool ReadRequest(const uint8_t* header);
  uint32_t Judge(const Target* target) const;
  uint32_t JudgeFlags() const;
  void Begin();
  void BeginParts();
  void PayloadArrived(size_t bytes);
  void AnswerNow(uint32_t first, uint32_t error);
  uint32_t NewSlot();
  void Keep(const uint8_t* bytes, size_t count);
  void FinishDiscard();
  void BuildReply(uint32_t index);
  void BuildError(Slot& first);
  void BuildStatus(uint32_t index);
  uint8_t* SimpleHeader(Slot& first);
  uint8_t* ChunkHeader(Slot& first, uint16_t type, uint64_t payload_bytes);
  uint32_t MessageVectors(uint32_t first, uint64_t skip, iovec* vectors, uint32_t max);

  Engine& engine_;
  const uint32_t connection_;
  const uint32_t target_;
  const Mode mode_;
  const bool allocation_;
  State state_ = State::Header;
  const char* reason_ = nullptr;
  Request request_ = {};
  uint32_t need_ = 0;
  uint32_t in_flight_ = 0;
  // Payload: the part that is being filled, how much of it is here, how much is still to come.
  // Discard: the slot of the error reply.
  uint32_t part_ = kNone;
  uint32_t part_filled_ = 0;
  uint64_t payload_left_ = 0;  // Also what is still to be thrown away in Discard.
  uint64_t last_payload_ = 0;
  uint64_t direct_bytes_ = 0;  // Of the last InputVectors(): what goes straight into slots.
  // The beginning of a header.
  uint8_t partial_[kExtendedRequestBytes];
  uint32_t partial_bytes_ = 0;
  // Bytes behind a request that waits; empty otherwise.
  std::vector<uint8_t> backlog_;
  // Replies in the order in which they are sent, linked through the first slots.
  uint32_t output_first_ = kNone;
  uint32_t output_last_ = kNone;
  uint64_t output_sent_ = 0;  // Bytes of the first one that are gone already.
};

}  // namespace ovs::nbd
