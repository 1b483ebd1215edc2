// SPDX-License-Identifier: Apache-2.0
// The frame header: made and checked here only. Declared in src/wire/formats/frame.ts.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/wire.h"

namespace ovs::transport {

inline constexpr size_t kHeaderBytes = sizeof(wire::FrameHeader);

/// A piece of memory of a payload.
struct Piece {
  uint8_t* data;
  size_t bytes;
};

/// Why a connection ends. Same order as REASONS in src/native/transport.ts.
enum class Fault : uint32_t {
  None = 0,
  PeerClosed,     // the other side closed it, between frames
  PeerTruncated,  // the other side closed it in the middle of a frame
  System,         // errno says what
  Magic,
  Version,
  HeaderCrc,
  Reserved,  // bytes that must be zero are not
  Kind,      // kind, priority or request id out of range
  Length,    // meta or payload too long, or the sum is wrong
  MetaCrc,
  PayloadCrc,
  LongerThanExpected,  // a payload longer than the memory given for it
  LongerThanPool,      // a payload that the whole receive pool could not hold
};

/// What a sender decides of a frame.
struct FrameFields {
  uint8_t kind;
  uint8_t priority;
  uint16_t operation;
  uint16_t status;
  uint64_t request_id;
  uint32_t timeout_ms;
};

/// The header of a frame with that meta and payload.
wire::FrameHeader MakeHeader(const FrameFields& fields, const uint8_t* meta, size_t meta_bytes,
                             const Piece* payload, size_t pieces);

/// None, or why these 64 bytes are no header of a frame that we take.
Fault CheckHeader(const wire::FrameHeader& header);

}  // namespace ovs::transport
