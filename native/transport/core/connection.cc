// SPDX-License-Identifier: Apache-2.0
#include "transport/core/connection.h"

#include <cstring>

#include "common/check.h"

namespace ovs::transport {

Placed Connection::Place(const wire::FrameHeader& header, std::vector<Piece>& into,
                         size_t& pool_offset) {
  if (header.kind == static_cast<uint8_t>(wire::FrameKind::Response)) {
    const ExpectTable::Entry* entry = expected.Find(header.request_id);
    if (entry != nullptr) {
      if (entry->bytes < header.payload_bytes) return Placed::LongerThanExpected;
      into.assign(entry->pieces(), entry->pieces() + entry->count);
      expected.Erase(header.request_id);
      return Placed::Yes;
    }
  }
  if (header.payload_bytes > hub.pool_.bytes()) return Placed::LongerThanPool;
  pool_offset = hub.pool_.Take(header.payload_bytes);
  if (pool_offset == 0) return Placed::NoRoom;
  into.push_back({hub.arena_ + pool_offset, header.payload_bytes});
  return Placed::Yes;
}

bool Connection::Deliver(const ParsedFrame& frame) {
  const wire::FrameHeader& header = *frame.header;
  if (hub.event_count_ == kEventsMax || hub.metas_used_ + header.meta_bytes > kMetasBytes) {
    return false;
  }
  const bool is_response = header.kind == static_cast<uint8_t>(wire::FrameKind::Response);
  if (is_response && expected.size() > 0) expected.Erase(header.request_id);
  uint32_t* event = hub.AddEvent(EventKind::Frame, id);
  event[2] = header.kind | (uint32_t{header.priority} << 8);
  event[3] = header.operation | (uint32_t{header.status} << 16);
  event[4] = static_cast<uint32_t>(header.request_id);
  event[5] = static_cast<uint32_t>(header.request_id >> 32);
  event[6] = header.timeout_ms;
  event[7] = static_cast<uint32_t>(hub.metas_used_);
  event[8] = header.meta_bytes;
  event[9] = static_cast<uint32_t>(frame.pool_offset);
  event[10] = header.payload_bytes;
  if (header.meta_bytes > 0) {
    std::memcpy(hub.metas_ + hub.metas_used_, frame.meta, header.meta_bytes);
    hub.metas_used_ += header.meta_bytes;
  }
  return true;
}

}  // namespace ovs::transport
