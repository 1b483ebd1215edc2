// SPDX-License-Identifier: Apache-2.0
#include "transport/core/frame.h"

#include <cstring>

#include "common/check.h"
#include "common/crc32c.h"

namespace ovs::transport {

namespace {

constexpr uint64_t kRequestIdEnd = uint64_t{1} << 53;  // JavaScript's exact numbers.

uint32_t HeaderCrc(const wire::FrameHeader& header) {
  return Crc32c(reinterpret_cast<const uint8_t*>(&header), offsetof(wire::FrameHeader, header_crc),
                0);
}

bool IsZero(const uint8_t* bytes, size_t count) {
  uint8_t any = 0;
  for (size_t i = 0; i < count; i++) any |= bytes[i];
  return any == 0;
}

}  // namespace

wire::FrameHeader MakeHeader(const FrameFields& fields, const uint8_t* meta, size_t meta_bytes,
                             const Piece* payload, size_t pieces) {
  OVS_CHECK(meta_bytes <= wire::FRAME_META_BYTES_MAX && fields.request_id < kRequestIdEnd);
  size_t payload_bytes = 0;
  uint32_t payload_crc = 0;
  for (size_t i = 0; i < pieces; i++) {
    payload_crc = Crc32c(payload[i].data, payload[i].bytes, payload_crc);
    payload_bytes += payload[i].bytes;
  }
  OVS_CHECK(payload_bytes <= wire::FRAME_PAYLOAD_BYTES_MAX);
  wire::FrameHeader header = {};
  header.magic = wire::FRAME_HEADER_MAGIC;
  header.version = wire::FRAME_HEADER_VERSION;
  header.kind = fields.kind;
  header.priority = fields.priority;
  header.operation = fields.operation;
  header.status = fields.status;
  header.request_id = fields.request_id;
  header.timeout_ms = fields.timeout_ms;
  header.meta_bytes = static_cast<uint32_t>(meta_bytes);
  header.payload_bytes = static_cast<uint32_t>(payload_bytes);
  header.meta_crc = Crc32c(meta, meta_bytes, 0);
  header.length = static_cast<uint32_t>(kHeaderBytes + meta_bytes + payload_bytes);
  header.body_crc = payload_crc;
  header.header_crc = HeaderCrc(header);
  return header;
}

Fault CheckHeader(const wire::FrameHeader& header) {
  if (header.magic != wire::FRAME_HEADER_MAGIC) return Fault::Magic;
  if (header.version != wire::FRAME_HEADER_VERSION) return Fault::Version;
  if (header.header_crc != HeaderCrc(header)) return Fault::HeaderCrc;
  if (!IsZero(header.reserved, sizeof header.reserved) ||
      !IsZero(header.reserved1, sizeof header.reserved1)) {
    return Fault::Reserved;
  }
  if (header.kind > static_cast<uint8_t>(wire::FrameKind::OneWay) ||
      header.priority > static_cast<uint8_t>(wire::FramePriority::Background) ||
      header.request_id >= kRequestIdEnd) {
    return Fault::Kind;
  }
  if (header.meta_bytes > wire::FRAME_META_BYTES_MAX ||
      header.payload_bytes > wire::FRAME_PAYLOAD_BYTES_MAX ||
      header.length != kHeaderBytes + header.meta_bytes + header.payload_bytes) {
    return Fault::Length;
  }
  return Fault::None;
}

}  // namespace ovs::transport
