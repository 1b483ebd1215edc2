// SPDX-License-Identifier: Apache-2.0
// The output side of a session: replies in the three styles of the protocol, and what of them
// goes to the socket next. A reply is a header in its first slot, followed by payload in the
// slots' memory; nothing is copied.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "common/check.h"
#include "nbd/core/session.h"

namespace ovs::nbd {

namespace {

std::string_view MessageOf(uint32_t error) {
  switch (error) {
    case kEperm:
      return "the export is read-only or has another owner";
    case kEio:
      return "the storage behind the export failed";
    case kEinval:
      return "bad flags, range or length for this export";
    case kEnospc:
      return "past the end of the export, or no space left";
    case kEoverflow:
      return "too large to be answered in one piece";
    case kEnotsup:
      return "zeroing this range would not be fast";
    case kEshutdown:
      return "the export is being closed";
    default:
      return "failed";
  }
}

struct Extent {
  uint64_t bytes;
  uint32_t flags;
};

Extent ReadExtent(const uint8_t* memory, uint32_t index) {
  uint32_t words[3];
  std::memcpy(words, memory + size_t{index} * 12, 12);
  return {words[0] | uint64_t{words[1]} << 32, words[2]};
}

}  // namespace

void Session::RequestDone(uint32_t first) {
  Slot& slot = engine_.slot(first);
  OVS_CHECK(slot.session == this && slot.state == SlotState::Done);
  if (slot.error != kOk || slot.type != kCmdRead) {
    // Only the header is left to send: the other parts' memory is free at once.
    for (uint32_t part = slot.next; part != kNone;) {
      const uint32_t next = engine_.slot(part).next;
      engine_.Free(part);
      part = next;
    }
    slot.next = kNone;
  }
  if (slot.error != kOk) {
    engine_.counters().errors++;
    BuildError(slot);
  } else {
    BuildReply(first);
  }
  OVS_CHECK(slot.header_bytes <= kReplyHeaderMax);
  slot.next_output = kNone;
  if (output_first_ == kNone) {
    output_first_ = first;
  } else {
    engine_.slot(output_last_).next_output = first;
  }
  output_last_ = first;
  engine_.MarkDirty(this);
}

/** A simple reply's header, or a chunk's with `payload_bytes` behind it. Returns its end. */
uint8_t* Session::ChunkHeader(Slot& first, uint16_t type, uint64_t payload_bytes) {
  uint8_t* p = first.header;
  p = StoreBe32(p, mode_ == Mode::Extended ? kExtendedReplyMagic : kStructuredReplyMagic);
  p = StoreBe16(p, kReplyFlagDone);
  p = StoreBe16(p, type);
  std::memcpy(p, &first.cookie, 8);
  p += 8;
  if (mode_ != Mode::Extended) return StoreBe32(p, static_cast<uint32_t>(payload_bytes));
  p = StoreBe64(p, first.request_offset);
  return StoreBe64(p, payload_bytes);
}

uint8_t* Session::SimpleHeader(Slot& first) {
  uint8_t* p = StoreBe32(first.header, kSimpleReplyMagic);
  p = StoreBe32(p, first.error);
  std::memcpy(p, &first.cookie, 8);
  return p + 8;
}

void Session::BuildReply(uint32_t index) {
  Slot& first = engine_.slot(index);
  if (first.type == kCmdBlockStatus) {
    BuildStatus(index);
    return;
  }
  uint8_t* end;
  const bool read = first.type == kCmdRead;
  const bool data = read && first.request_bytes > 0;
  first.reply_bytes = data ? static_cast<uint32_t>(first.request_bytes) : 0;
  if (mode_ == Mode::Simple || (mode_ == Mode::Structured && !read)) {
    end = SimpleHeader(first);
  } else if (data) {
    end = ChunkHeader(first, kReplyOffsetData, 8 + first.request_bytes);
    end = StoreBe64(end, first.request_offset);
  } else {
    end = ChunkHeader(first, kReplyNone, 0);
  }
  first.header_bytes = static_cast<uint16_t>(end - first.header);
}

void Session::BuildError(Slot& first) {
  first.reply_bytes = 0;
  uint8_t* end;
  if (mode_ == Mode::Simple) {
    end = SimpleHeader(first);
  } else {
    const std::string_view message = MessageOf(first.error);
    const uint16_t length = static_cast<uint16_t>(message.size());
    end = ChunkHeader(first, kReplyError, 6u + length);
    OVS_CHECK(end + 6 + length <= first.header + kReplyHeaderMax);
    end = StoreBe32(end, first.error);
    end = StoreBe16(end, length);
    end = std::copy(message.begin(), message.end(), end);
  }
  first.header_bytes = static_cast<uint16_t>(end - first.header);
}

/** Turns the target's extents (12 bytes each) into descriptors (8 or 16 bytes), neighbours joined.
 */
void Session::BuildStatus(uint32_t index) {
  Slot& first = engine_.slot(index);
  const bool extended = mode_ == Mode::Extended;
  const uint32_t given = std::min(first.reply_bytes, kSlotBytes / 16);
  const uint32_t limit = first.request_flags & kCmdFlagReqOne ? 1 : given + 1;
  const uint8_t* memory = engine_.SlotMemory(index);
  uint8_t* built = engine_.staging();
  uint8_t* end = built;
  uint32_t count = 0;
  auto put = [&](const Extent& extent) {
    end = extended ? StoreBe64(end, extent.bytes) : StoreBe32(end, uint32_t(extent.bytes));
    end = extended ? StoreBe64(end, extent.flags) : StoreBe32(end, extent.flags);
    count++;
  };
  uint64_t left = first.request_bytes;
  Extent joined = {0, 0};
  for (uint32_t i = 0; i < given && left > 0 && count < limit; i++) {
    Extent next = ReadExtent(memory, i);
    next.bytes = std::min(next.bytes, left);
    left -= next.bytes;
    if (joined.bytes > 0 && next.flags != joined.flags) put(joined);
    const bool same = joined.bytes > 0 && next.flags == joined.flags;
    joined = {same ? joined.bytes + next.bytes : next.bytes, next.flags};
  }
  if (joined.bytes > 0 && count < limit) put(joined);
  if (count == 0) put({first.request_bytes, 0});  // Always true: "nothing is known".
  first.reply_bytes = static_cast<uint32_t>(end - built);
  std::memcpy(engine_.SlotMemory(index), built, first.reply_bytes);
  const uint16_t type = extended ? kReplyBlockStatusExt : kReplyBlockStatus;
  uint8_t* header = ChunkHeader(first, type, (extended ? 8u : 4u) + first.reply_bytes);
  header = StoreBe32(header, kAllocationContext);
  if (extended) header = StoreBe32(header, count);
  first.header_bytes = static_cast<uint16_t>(header - first.header);
}

uint32_t Session::OutputVectors(iovec* vectors, uint32_t max) {
  OVS_CHECK(max >= 1);
  uint32_t count = 0;
  uint64_t skip = output_sent_;
  for (uint32_t i = output_first_; i != kNone && count < max; i = engine_.slot(i).next_output) {
    count += MessageVectors(i, skip, vectors + count, max - count);
    skip = 0;
  }
  return count;
}

/** The pieces of one reply from its byte `skip` on. */
uint32_t Session::MessageVectors(uint32_t first, uint64_t skip, iovec* vectors, uint32_t max) {
  Slot& slot = engine_.slot(first);
  uint32_t count = 0;
  auto piece = [&](uint8_t* base, uint32_t bytes) {
    if (skip >= bytes) {
      skip -= bytes;
    } else {
      vectors[count++] = {base + skip, static_cast<size_t>(bytes - skip)};
      skip = 0;
    }
  };
  piece(slot.header, slot.header_bytes);
  if (slot.reply_bytes == 0) return count;
  if (slot.type == kCmdBlockStatus) {
    if (count < max) piece(engine_.SlotMemory(first), slot.reply_bytes);
    return count;
  }
  for (uint32_t part = first; part != kNone && count < max; part = engine_.slot(part).next) {
    Slot& data = engine_.slot(part);
    piece(engine_.SlotMemory(part) + data.shift, data.bytes);
  }
  return count;
}

void Session::Sent(size_t bytes) {
  engine_.counters().bytes_out += bytes;
  progress++;
  output_sent_ += bytes;
  while (output_first_ != kNone) {
    Slot& slot = engine_.slot(output_first_);
    const uint64_t total = uint64_t{slot.header_bytes} + slot.reply_bytes;
    if (output_sent_ < total) return;
    output_sent_ -= total;
    const uint32_t next = slot.next_output;
    for (uint32_t part = output_first_; part != kNone;) {
      const uint32_t following = engine_.slot(part).next;
      engine_.Free(part);
      part = following;
    }
    output_first_ = next;
    in_flight_--;
  }
  output_last_ = kNone;
  OVS_CHECK(output_sent_ == 0);
}

}  // namespace ovs::nbd
