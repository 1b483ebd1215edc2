// SPDX-License-Identifier: Apache-2.0
// A connection of a hub: its socket, its two directions, and what keeps it from reading.
#pragma once
#include <cstdint>
#include <vector>

#include "transport/core/hub.h"

namespace ovs::transport {

struct Connection final : FrameHost {
  Connection(Hub& owner, uint32_t number, int socket)
      : hub(owner), id(number), fd(socket), parser(*this) {}

  Placed Place(const wire::FrameHeader& header, std::vector<Piece>& into,
               size_t& pool_offset) override;
  bool Deliver(const ParsedFrame& frame) override;

  bool reads() const { return !connecting && !paused && !starved; }

  Hub& hub;
  const uint32_t id;
  int fd;
  uint32_t watched = 0;     // What epoll waits for.
  bool connecting = false;  // The other side has not accepted yet.
  bool paused = false;      // JavaScript does not want to read.
  bool starved = false;     // The pool has no room for the payload that comes next.
  bool staged = false;      // In Hub::staged_.
  bool stopped = false;     // The parser holds a frame that could not go on.
  bool deaf = false;        // The other side takes nothing any more; what it sent is still read.
  bool retrying = false;    // In Hub::retry_.
  Parser parser;
  Outbox outbox;
  ExpectTable expected;
  std::vector<uint8_t> kept;  // Bytes that were read but not taken by the parser.
  size_t kept_at = 0;
};

}  // namespace ovs::transport
