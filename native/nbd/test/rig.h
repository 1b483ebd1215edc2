// SPDX-License-Identifier: Apache-2.0
// What the core's tests share: an engine over its own memory, a target that keeps a disk in a
// vector, and a wire that carries bytes in pieces of any size.
#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "nbd/core/engine.h"
#include "nbd/core/session.h"

namespace ovs::nbd {

constexpr uint32_t kRigTarget = 1;
constexpr uint32_t kRigArenaOffset = kClusterBytes;

/** Columns, memory and engine of `slots` slots; target kRigTarget is a disk of `disk_bytes`. */
class Rig {
 public:
  Rig(uint32_t slots, size_t disk_bytes)
      : disk(disk_bytes),
        kind_(slots),
        flags_(slots),
        offset_(slots),
        length_(slots),
        memory_column_(slots),
        crcs_(size_t{slots} * kSlotClusters),
        cookie_low_(slots),
        cookie_high_(slots),
        connection_(slots),
        target_(slots),
        ready_(slots),
        staged_(size_t{slots} * 2),
        memory_(
            static_cast<uint8_t*>(std::aligned_alloc(kClusterBytes, size_t{slots} * kSlotBytes))) {
    const SlotArrays arrays = {kind_.data(),       flags_.data(),         offset_.data(),
                               length_.data(),     memory_column_.data(), crcs_.data(),
                               cookie_low_.data(), cookie_high_.data(),   connection_.data(),
                               target_.data(),     ready_.data(),         staged_.data()};
    engine = std::make_unique<Engine>(memory_, kRigArenaOffset, slots, arrays);
    engine->SetTarget(kRigTarget, disk_bytes, false, true);
  }
  ~Rig() { std::free(memory_); }

  /** Moves ready slots to `held`. */
  void Collect() {
    const uint32_t count = engine->TakeReady();
    held.insert(held.end(), ready_.begin(), ready_.begin() + count);
  }

  /** Carries out one held request and completes it, with `result` unless that is 0. */
  void Finish(size_t index, uint32_t result) {
    const uint32_t slot = held[index];
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    if (result == kOk) result = Carry(slot);
    staged_[0] = slot;
    staged_[1] = result;
    engine->Complete(1);
    engine->Pump();
  }

  /** Serves until nothing is ready any more. */
  void Serve() {
    for (Collect(); !held.empty(); Collect()) Finish(0, kOk);
  }

  uint32_t kind(uint32_t slot) const { return kind_[slot]; }
  uint64_t offset(uint32_t slot) const { return static_cast<uint64_t>(offset_[slot]); }
  uint64_t length(uint32_t slot) const { return static_cast<uint64_t>(length_[slot]); }
  uint32_t flags(uint32_t slot) const { return flags_[slot]; }
  uint32_t crc(uint32_t slot, uint32_t cluster) const {
    return crcs_[size_t{slot} * kSlotClusters + cluster];
  }
  uint8_t* Bytes(uint32_t slot) { return memory_ + memory_column_[slot] - kRigArenaOffset; }

  std::unique_ptr<Engine> engine;
  std::vector<uint8_t> disk;
  std::vector<uint32_t> held;
  /** What a block status answers: triples of 32-bit words. */
  std::vector<uint32_t> extents;

 private:
  /** Does what the request says; the checks are those that a target relies on. */
  uint32_t Carry(uint32_t slot) {
    const uint64_t from = offset(slot);
    const uint64_t bytes = length(slot);
    OVS_CHECK(from + bytes <= disk.size());
    OVS_CHECK(bytes > 0 || kind(slot) == kCmdFlush);
    OVS_CHECK(target_[slot] == kRigTarget);
    if (kind(slot) == kCmdRead || kind(slot) == kCmdWrite) {
      OVS_CHECK(from % kClusterBytes + bytes <= kSlotBytes);
      OVS_CHECK(memory_column_[slot] % kClusterBytes == from % kClusterBytes);
      if (kind(slot) == kCmdRead) std::memcpy(Bytes(slot), disk.data() + from, bytes);
      if (kind(slot) == kCmdWrite) std::memcpy(disk.data() + from, Bytes(slot), bytes);
    } else if (kind(slot) == kCmdTrim || kind(slot) == kCmdWriteZeroes) {
      std::memset(disk.data() + from, 0, bytes);
    } else if (kind(slot) == kCmdBlockStatus && !extents.empty()) {
      std::memcpy(Bytes(slot), extents.data(), extents.size() * 4);
      return 0x80000000u | static_cast<uint32_t>(extents.size() / 3);
    }
    return kOk;
  }

  std::vector<uint8_t> kind_;
  std::vector<uint16_t> flags_;
  std::vector<double> offset_;
  std::vector<double> length_;
  std::vector<uint32_t> memory_column_;
  std::vector<uint32_t> crcs_;
  std::vector<uint32_t> cookie_low_;
  std::vector<uint32_t> cookie_high_;
  std::vector<uint32_t> connection_;
  std::vector<uint32_t> target_;
  std::vector<uint32_t> ready_;
  std::vector<uint32_t> staged_;
  uint8_t* memory_;
};

/** Gives the session up to `count` bytes as a socket would; answers how many it took. */
inline size_t Deliver(Session& session, const uint8_t* bytes, size_t count) {
  iovec vectors[8];
  if (count == 0 || !session.wants_input()) return 0;
  const uint32_t places = session.InputVectors(vectors, 8);
  size_t done = 0;
  for (uint32_t i = 0; i < places && done < count; i++) {
    const size_t take = std::min(vectors[i].iov_len, count - done);
    OVS_CHECK(vectors[i].iov_len > 0);
    std::memcpy(vectors[i].iov_base, bytes + done, take);
    done += take;
  }
  session.Received(done);
  return done;
}

/** Takes up to `max` bytes that the session wants to send. */
inline std::string Collect(Session& session, size_t max) {
  std::string all;
  while (session.has_output() && all.size() < max) {
    iovec vectors[5];
    const uint32_t count = session.OutputVectors(vectors, 5);
    OVS_CHECK(count > 0);
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
      const size_t take = std::min(vectors[i].iov_len, max - all.size());
      all.append(static_cast<const char*>(vectors[i].iov_base), take);
      bytes += take;
    }
    session.Sent(bytes);
  }
  return all;
}

/** A request as it goes over the wire. */
inline std::string Request(Mode mode, uint16_t flags, uint16_t type, uint64_t cookie,
                           uint64_t offset, uint64_t bytes) {
  uint8_t raw[kExtendedRequestBytes];
  const bool extended = mode == Mode::Extended;
  uint8_t* p = StoreBe32(raw, extended ? kExtendedRequestMagic : kRequestMagic);
  p = StoreBe16(p, flags);
  p = StoreBe16(p, type);
  std::memcpy(p, &cookie, 8);
  p = StoreBe64(p + 8, offset);
  p = extended ? StoreBe64(p, bytes) : StoreBe32(p, static_cast<uint32_t>(bytes));
  return std::string(reinterpret_cast<char*>(raw), static_cast<size_t>(p - raw));
}

}  // namespace ovs::nbd
