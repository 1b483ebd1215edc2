// SPDX-License-Identifier: Apache-2.0
#include "nbd/core/engine.h"

#include <isa-l/crc.h>

#include <algorithm>

#include "common/check.h"
#include "nbd/core/session.h"

namespace ovs::nbd {

namespace {

constexpr uint32_t kResultExtents = 0x80000000;

uint32_t RequestBytesMaxFor(uint32_t slots) {
  // One part is set aside: a request that begins inside a cluster has one part more.
  uint32_t bytes = kPartBytes;
  while (bytes < kRequestBytesMax && uint64_t{bytes} * 2 / kPartBytes + 1 <= slots) bytes *= 2;
  return bytes;
}

}  // namespace

static_assert(kStagingBytes >= kSlotBytes, "a status reply is built in the staging buffer");

Engine::Engine(uint8_t* memory, uint32_t memory_offset, uint32_t slots, const SlotArrays& arrays)
    : memory_(memory),
      memory_offset_(memory_offset),
      slots_(slots),
      request_bytes_max_(RequestBytesMaxFor(slots)),
      arrays_(arrays),
      staging_(new uint8_t[kStagingBytes]),
      table_(slots) {
  OVS_CHECK(slots >= 2);
  OVS_CHECK(reinterpret_cast<uintptr_t>(memory) % kClusterBytes == 0);
  OVS_CHECK(memory_offset % kClusterBytes == 0);
  free_.reserve(slots);
  for (uint32_t i = slots; i-- > 0;) {
    table_[i].state = SlotState::Free;
    free_.push_back(i);
  }
}

Engine::~Engine() { delete[] staging_; }

void Engine::SetTarget(uint32_t id, uint64_t size_bytes, bool read_only, bool alive) {
  OVS_CHECK(id < (1u << 20));
  if (targets_.size() <= id) targets_.resize(id + 1);
  targets_[id] = Target{size_bytes, read_only, alive, true};
}

void Engine::ForgetTarget(uint32_t id) {
  OVS_CHECK(id < targets_.size());
  targets_[id].used = false;
}

const Target* Engine::FindTarget(uint32_t id) const {
  return id < targets_.size() && targets_[id].used ? &targets_[id] : nullptr;
}

uint32_t Engine::PartsOf(uint64_t offset, uint64_t bytes) {
  if (bytes <= kPartBytes) return 1;
  const uint64_t first = kPartBytes - offset % kClusterBytes;
  return static_cast<uint32_t>(1 + (bytes - first + kPartBytes - 1) / kPartBytes);
}

bool Engine::Admit(Session* session, uint32_t count) {
  OVS_CHECK(count > 0 && count <= slots_);
  if (waiters_.empty() && count <= free_.size()) return true;
  waiters_.push_back(session);
  counters_.waits++;
  return false;
}

uint32_t Engine::Take() {
  OVS_CHECK(!free_.empty());
  const uint32_t index = free_.back();
  free_.pop_back();
  OVS_CHECK(table_[index].state == SlotState::Free);
  table_[index].state = SlotState::Filling;
  return index;
}

void Engine::Free(uint32_t index) {
  OVS_CHECK(table_[index].state != SlotState::Free);
  table_[index].state = SlotState::Free;
  table_[index].session = nullptr;
  free_.push_back(index);
}

void Engine::MakeReady(uint32_t index) {
  OVS_CHECK(table_[index].state == SlotState::Filling);
  OVS_CHECK(ready_count_ < slots_);
  table_[index].state = SlotState::Admitted;
  arrays_.ready[ready_count_++] = index;
}

uint32_t Engine::TakeReady() {
  const uint32_t count = ready_count_;
  ready_count_ = 0;
  return count;
}

void Engine::Complete(uint32_t count) {
  OVS_CHECK(count <= slots_);
  for (uint32_t i = 0; i < count; i++) {
    CompleteOne(arrays_.staged[2 * i], arrays_.staged[2 * i + 1]);
  }
}

void Engine::CompleteOne(uint32_t index, uint32_t result) {
  OVS_CHECK(index < slots_);
  Slot& slot = table_[index];
  OVS_CHECK(slot.state == SlotState::Admitted);
  if (slot.session == nullptr) {
    Free(index);
    return;
  }
  slot.state = SlotState::Done;
  Slot& first = table_[slot.first];
  if (result & kResultExtents) {
    OVS_CHECK(first.type == kCmdBlockStatus);
    first.reply_bytes = result & ~kResultExtents;  // Extents, until the reply is built.
  } else if (result != kOk && first.error == kOk) {
    first.error = result;
  }
  OVS_CHECK(first.pending > 0);
  if (--first.pending == 0) slot.session->RequestDone(slot.first);
}

void Engine::Pump() {
  if (pumping_) return;
  pumping_ = true;
  while (!waiters_.empty() && waiters_.front()->need() <= free_.size()) {
    Session* session = waiters_.front();
    waiters_.pop_front();
    session->Resume();
  }
  pumping_ = false;
}

void Engine::MarkDirty(Session* session) {
  if (session->dirty) return;
  session->dirty = true;
  dirty_.push_back(session);
}

void Engine::Orphan(uint32_t index) {
  if (table_[index].state == SlotState::Admitted) {
    table_[index].session = nullptr;
  } else {
    Free(index);
  }
}

void Engine::Abandon(uint32_t first) {
  for (uint32_t part = first; part != kNone;) {
    const uint32_t next = table_[part].next;
    Orphan(part);
    part = next;
  }
}

void Engine::StopWaiting(Session* session) { std::erase(waiters_, session); }

void Engine::Forget(Session* session) {
  StopWaiting(session);
  for (uint32_t i = 0; i < slots_; i++) {
    const Slot& slot = table_[i];
    if (slot.state != SlotState::Free && slot.session == session) Orphan(i);
  }
}

void Engine::Publish(uint32_t index, uint16_t flags, uint32_t connection, uint32_t target) {
  const Slot& slot = table_[index];
  const Slot& first = table_[slot.first];
  const bool cut = first.type == kCmdRead || first.type == kCmdWrite;
  arrays_.kind[index] = static_cast<uint8_t>(first.type);
  arrays_.flags[index] = flags;
  arrays_.offset[index] = static_cast<double>(slot.offset);
  arrays_.length[index] = static_cast<double>(cut ? slot.bytes : first.request_bytes);
  arrays_.memory[index] = memory_offset_ + index * kSlotBytes + slot.shift;
  arrays_.cookie_low[index] = static_cast<uint32_t>(first.cookie);
  arrays_.cookie_high[index] = static_cast<uint32_t>(first.cookie >> 32);
  arrays_.connection[index] = connection;
  arrays_.target[index] = target;
}

void Engine::Checksum(uint32_t index) {
  const Slot& slot = table_[index];
  uint8_t* memory = SlotMemory(index);
  uint32_t* crcs = arrays_.crcs + size_t{index} * kSlotClusters;
  const uint32_t end = slot.shift + slot.bytes;
  for (uint32_t at = 0; at < end; at += kClusterBytes) {
    const bool whole = at >= slot.shift && at + kClusterBytes <= end;
    *crcs++ = whole ? ~crc32_iscsi(memory + at, kClusterBytes, 0xffffffffu) : 0;
  }
}

}  // namespace ovs::nbd
