// SPDX-License-Identifier: Apache-2.0
// One connection's incoming bytes, made into frames. A pure state machine: it reads no socket and
// takes no memory but that which its host places payloads in.
//
//   Head ──► Meta ──► Place ──► Payload ──► Deliver ──► Head …
//                       │ no room now          │ host is full
//                       ▼                      ▼
//                    the caller keeps the rest and calls Consume again later
//
// Bytes come in two ways: Consume takes them from a buffer; while a payload is incoming, Direct
// says where the socket may put them at once.
#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/core/frame.h"

namespace ovs::transport {

/// A complete, checked frame.
struct ParsedFrame {
  const wire::FrameHeader* header;
  const uint8_t* meta;  // header->meta_bytes, valid during Deliver.
  size_t pool_offset;   // Payload in the pool; 0: none, or it went where it was expected.
};

enum class Placed { Yes, NoRoom, LongerThanExpected, LongerThanPool };

/// What a parser asks of its connection.
class FrameHost {
 public:
  /// Finds memory for header.payload_bytes (> 0): adds pieces of at least that many bytes to `into`
  /// (empty when called), and sets `pool_offset` when they were taken from the pool.
  virtual Placed Place(const wire::FrameHeader& header, std::vector<Piece>& into,
                       size_t& pool_offset) = 0;
  /// Takes a frame and its payload's memory; false when there is no room for frames now.
  virtual bool Deliver(const ParsedFrame& frame) = 0;

 protected:
  ~FrameHost() = default;
};

class Parser {
 public:
  enum class Stop {
    Hungry,  // All bytes were taken, more are wanted.
    NoRoom,  // The host found no memory: call Consume again when there may be some.
    Full,    // The host takes no frames now: call Consume again when it does.
    Broken,  // fault() says why; nothing more is taken.
  };

  explicit Parser(FrameHost& host) : host_(host) {}

  /// Takes bytes until they are used up or it must stop; `taken` is how many it took.
  Stop Consume(const uint8_t* data, size_t bytes, size_t& taken);

  /// Fills up to `max` places for bytes of the payload that is coming; returns how many.
  int Direct(iovec* places, int max) const;

  /// Bytes of the payload that is coming that have not come yet.
  size_t payload_left() const { return state_ == State::Payload ? left_ : 0; }

  /// Says that so many bytes lie where Direct pointed.
  void DirectDone(size_t bytes);

  Fault fault() const { return fault_; }
  bool between_frames() const { return state_ == State::Head && have_ == 0; }
  /// The payload of the response to `id` is arriving in memory that was expected for it.
  bool IsFilling(uint64_t id) const;
  /// Arena offset of the pool run that is being filled, which nobody else knows of; 0: none.
  size_t pool_offset() const { return pool_offset_; }

 private:
  enum class State { Head, Meta, Place, Payload, Deliver, Broken };

  bool TakeHead(const uint8_t*& at, const uint8_t* end);
  bool TakeMeta(const uint8_t*& at, const uint8_t* end);
  bool TakePayload(const uint8_t*& at, const uint8_t* end);
  Stop Break(Fault fault);
  bool BodyDone();
  void Advance(size_t bytes);

  FrameHost& host_;
  State state_ = State::Head;
  Fault fault_ = Fault::None;
  size_t have_ = 0;  // Bytes of header or meta that are held.
  wire::FrameHeader header_ = {};
  const uint8_t* meta_ = nullptr;  // In the caller's bytes or in meta_copy_.
  std::vector<uint8_t> meta_copy_;
  std::vector<Piece> pieces_;
  size_t piece_ = 0;
  size_t piece_done_ = 0;
  size_t left_ = 0;
  uint32_t crc_ = 0;
  size_t pool_offset_ = 0;
};

}  // namespace ovs::transport
