// SPDX-License-Identifier: Apache-2.0
// Any bytes into the parser, in pieces that the input chooses, with a host that is now and then out
// of memory or full. Headers whose checksum is wrong are sealed again, so that the fuzzer gets past
// it. Nothing may be written outside the places, and the pieces must not change what is understood.

#include <cstdint>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "common/crc32c.h"
#include "transport/core/parser.h"

using namespace ovs::transport;
using ovs::wire::FrameHeader;

namespace {

constexpr size_t kPlaceMax = 256 * 1024;

struct Host final : FrameHost {
  std::vector<uint8_t> memory;
  uint64_t digest = 0;
  size_t frames = 0;
  uint8_t mood = 0;

  Placed Place(const FrameHeader& header, std::vector<Piece>& into, size_t& offset) override {
    OVS_CHECK(header.payload_bytes > 0 &&
              header.payload_bytes <= ovs::wire::FRAME_PAYLOAD_BYTES_MAX);
    if (header.payload_bytes > kPlaceMax) return Placed::LongerThanPool;
    if (mood++ % 4 == 3) return Placed::NoRoom;
    memory.resize(header.payload_bytes);
    const size_t first = header.payload_bytes / 2;
    if (first > 0) into.push_back({memory.data(), first});
    into.push_back({memory.data() + first, header.payload_bytes - first});
    offset = 1;
    return Placed::Yes;
  }

  bool Deliver(const ParsedFrame& frame) override {
    if (mood++ % 4 == 3) return false;
    frames++;
    const uint32_t meta = ovs::Crc32c(frame.meta, frame.header->meta_bytes, 0);
    OVS_CHECK(meta == frame.header->meta_crc && frame.header->request_id < uint64_t{1} << 53);
    digest = digest * 31 + meta + frame.header->header_crc;
    return true;
  }
};

/// What is understood of `bytes` in pieces of `most`.
uint64_t Parse(const std::vector<uint8_t>& bytes, size_t most, bool direct) {
  Host host;
  Parser parser(host);
  size_t at = 0;
  bool pending = false;
  while (at < bytes.size() || pending) {
    iovec places[2];
    const int count = direct ? parser.Direct(places, 2) : 0;
    size_t done = 0;
    for (int i = 0; i < count; i++) {
      const size_t part = std::min(places[i].iov_len, bytes.size() - at - done);
      std::memcpy(places[i].iov_base, bytes.data() + at + done, part);
      done += part;
    }
    if (done > 0) parser.DirectDone(done);
    at += done;
    const std::vector<uint8_t> piece(
        bytes.begin() + static_cast<long>(at),
        bytes.begin() + static_cast<long>(std::min(bytes.size(), at + most)));
    size_t taken = 0;
    const Parser::Stop stop = parser.Consume(piece.data(), piece.size(), taken);
    OVS_CHECK(taken <= piece.size());
    if (stop == Parser::Stop::Broken) {
      OVS_CHECK(parser.fault() != Fault::None);
      return host.digest + static_cast<uint64_t>(parser.fault()) + host.frames;
    }
    pending = stop != Parser::Stop::Hungry;
    OVS_CHECK(pending || taken == piece.size());
    at += taken;
  }
  return host.digest + host.frames;
}

/// Makes the checksums of what looks like frames right.
void Seal(std::vector<uint8_t>& bytes) {
  size_t at = 0;
  while (bytes.size() - at >= kHeaderBytes) {
    FrameHeader header;
    std::memcpy(&header, bytes.data() + at, sizeof header);
    header.magic = ovs::wire::FRAME_HEADER_MAGIC;
    header.version = ovs::wire::FRAME_HEADER_VERSION;
    const size_t left = bytes.size() - at - kHeaderBytes;
    const uint8_t* body = bytes.data() + at + kHeaderBytes;
    const size_t meta = std::min<size_t>(header.meta_bytes, left);
    const size_t payload = std::min<size_t>(header.payload_bytes, left - meta);
    header.length = static_cast<uint32_t>(kHeaderBytes + header.meta_bytes + header.payload_bytes);
    header.meta_crc = ovs::Crc32c(body, meta, 0);
    header.body_crc = ovs::Crc32c(body + meta, payload, 0);
    header.header_crc = ovs::Crc32c(reinterpret_cast<const uint8_t*>(&header),
                                    offsetof(FrameHeader, header_crc), 0);
    std::memcpy(bytes.data() + at, &header, sizeof header);
    at += kHeaderBytes + meta + payload;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t most = 1 + data[0];
  std::vector<uint8_t> bytes(data + 2, data + size);
  if ((data[1] & 1) != 0) Seal(bytes);
  const uint64_t whole = Parse(bytes, bytes.size(), false);
  OVS_CHECK(whole == Parse(bytes, most, false));
  OVS_CHECK(whole == Parse(bytes, most, true));
  return 0;
}
