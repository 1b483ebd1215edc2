// SPDX-License-Identifier: Apache-2.0
// The hub's outgoing half: obeys the log that the caller wrote, sends what is staged.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "common/check.h"
#include "transport/core/connection.h"
#include "transport/core/hub.h"

namespace ovs::transport {

namespace {

constexpr int kPlacesMax = 512;
constexpr int kSendRounds = 16;

uint64_t Join(uint32_t low, uint32_t high) { return low | (uint64_t{high} << 32); }

}  // namespace

size_t Hub::Apply(size_t words, bool flush) {
  OVS_CHECK(words <= kLogWords);
  size_t at = 0;
  while (at < words) {
    const uint32_t* entry = log_ + at;
    const size_t left = words - at;
    OVS_CHECK(left >= 2);
    switch (static_cast<LogKind>(entry[0])) {
      case LogKind::Send:
        at += ApplySend(entry, left);
        break;
      case LogKind::Expect:
        at += ApplyExpect(entry, left);
        break;
      case LogKind::Release:
        ApplyRelease(entry[1]);
        at += 2;
        break;
      case LogKind::Reading:
        OVS_CHECK(left >= 3);
        ApplyReading(entry[1], entry[2] != 0);
        at += 3;
        break;
      default:
        OVS_CHECK(false);
    }
  }
  if (flush) {
    for (const uint32_t id : staged_) {
      Connection* c = Find(id);
      if (c == nullptr) continue;
      c->staged = false;
      SendNow(c);
    }
    staged_.clear();
  }
  const size_t count = std::min(sent_.size(), kDoneMax);
  std::copy_n(sent_.begin(), count, done_);
  sent_.erase(sent_.begin(), sent_.begin() + static_cast<std::ptrdiff_t>(count));
  graves_.clear();
  return count;
}

/// Reads (offset, bytes) pairs of the log into pieces_.
void Hub::ReadPieces(const uint32_t* words, size_t count) {
  OVS_CHECK(count <= kPiecesMax);
  pieces_.clear();
  for (size_t i = 0; i < count; i++) {
    const size_t offset = words[2 * i];
    const size_t bytes = words[2 * i + 1];
    OVS_CHECK(bytes > 0 && offset + bytes <= arena_bytes_);
    pieces_.push_back({arena_ + offset, bytes});
  }
}

size_t Hub::ApplySend(const uint32_t* entry, size_t left) {
  constexpr size_t kFixed = 10;
  OVS_CHECK(left >= kFixed);
  const size_t meta_bytes = entry[7];
  const size_t pieces = entry[8];
  const uint32_t token = entry[9];
  const size_t words = kFixed + 2 * pieces + (meta_bytes + 3) / 4;
  OVS_CHECK(pieces <= kPiecesMax && meta_bytes <= wire::FRAME_META_BYTES_MAX && words <= left);
  Connection* c = Find(entry[1]);
  if (c == nullptr || c->deaf) {
    if (token != 0) sent_.push_back(token);
    return words;
  }
  ReadPieces(entry + kFixed, pieces);
  const auto* meta = reinterpret_cast<const uint8_t*>(entry + kFixed + 2 * pieces);
  const FrameFields fields = {
      .kind = static_cast<uint8_t>(entry[2]),
      .priority = static_cast<uint8_t>(entry[2] >> 8),
      .operation = static_cast<uint16_t>(entry[3]),
      .status = static_cast<uint16_t>(entry[3] >> 16),
      .request_id = Join(entry[4], entry[5]),
      .timeout_ms = entry[6],
  };
  const wire::FrameHeader header =
      MakeHeader(fields, meta, meta_bytes, pieces_.data(), pieces_.size());
  c->outbox.Push(header, meta, pieces_.data(), pieces_.size(), token);
  Stage(c);
  return words;
}

void Hub::Stage(Connection* c) {
  queued_[SlotOf(c->id)] = static_cast<double>(c->outbox.bytes());
  if (c->staged) return;
  c->staged = true;
  staged_.push_back(c->id);
}

size_t Hub::ApplyExpect(const uint32_t* entry, size_t left) {
  constexpr size_t kFixed = 5;
  OVS_CHECK(left >= kFixed);
  const size_t pieces = entry[4];
  OVS_CHECK(pieces > 0 && kFixed + 2 * pieces <= left);
  Connection* c = Find(entry[1]);
  if (c != nullptr) {
    ReadPieces(entry + kFixed, pieces);
    c->expected.Put(Join(entry[2], entry[3]), pieces_.data(), pieces_.size());
  }
  return kFixed + 2 * pieces;
}

void Hub::ApplyReading(uint32_t id, bool on) {
  Connection* c = Find(id);
  if (c == nullptr) return;
  c->paused = !on;
  Watch(c);
  if (on && (c->stopped || !c->kept.empty())) {
    Retry(c);
    Signal();
  }
}

void Hub::ApplyRelease(uint32_t offset) {
  OVS_CHECK(pool_.Give(offset));
  if (starved_.empty()) return;
  for (const uint32_t id : starved_) {
    Connection* c = Find(id);
    if (c == nullptr) continue;
    c->starved = false;
    Retry(c);
  }
  starved_.clear();
  Signal();
}

void Hub::SendNow(Connection* c) {
  for (int round = 0; round < kSendRounds && !c->outbox.empty(); round++) {
    iovec places[kPlacesMax];
    msghdr message = {};
    message.msg_iov = places;
    message.msg_iovlen = static_cast<size_t>(c->outbox.Gather(places, kPlacesMax));
    const ssize_t got = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) break;
      if (errno != EPIPE && errno != ECONNRESET) {
        Shut(c, Fault::System, errno);
        return;
      }
      // What the other side said before it went is still to be read, and then the end is found.
      c->deaf = true;
      c->outbox.Drop(sent_);
      break;
    }
    c->outbox.Taken(static_cast<size_t>(got), sent_);
  }
  queued_[SlotOf(c->id)] = static_cast<double>(c->outbox.bytes());
  Watch(c);
}

}  // namespace ovs::transport
